"""The README tells the truth: its commands run, its tables are the program's."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import orjson
import pytest
from typer.main import get_command

from llmblast.cli.main import app
from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.models import Answer, Failure, InvalidAnswers, Reply, Request, Success
from llmblast.setting_option import Group, is_shown
from llmblast.settings import Settings
from llmblast.stage_loading import load_stages
from llmblast.writing.formats import error_record, render
from tests.conftest import LLMBLAST, ROOT, RunLlmblast, StartMock, records
from tests.openai_provider import RequestParser

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
RUNS_THIS_TEST = "scripts/test"
SERVES = "llmblast mock"
PLACE_OF_A_SERVER = re.compile(r"http://127\.0\.0\.1:800\d/v1")
JQ = """
import json, sys
_, style, field, *files = sys.argv
for line in open(files[0]) if files else sys.stdin:
    value = json.loads(line)[field.removeprefix(".")]
    print(value if "r" in style and isinstance(value, str) else json.dumps(value))
"""


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its first two lines."""
    section = re.split(r"\n##+ ", README.split(f"## {heading}\n", 1)[1], maxsplit=1)[0]
    lines = section.split("\n|", 1)[1].split("\n\n", 1)[0].splitlines()
    rows = lines[2:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample data, where the commands are typed in the README's order; jq is not on every machine."""
    path = tmp_path_factory.mktemp("readme")
    (path / "sample_data").symlink_to(ROOT / "sample_data")
    (path / "jq").write_text(f"#!{sys.executable}\n{JQ}")
    (path / "jq").chmod(0o755)
    return path


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command != RUNS_THIS_TEST and not command.startswith(SERVES)]
)
def test_a_command_of_the_readme_runs(
    workplace: Path, environment: dict[str, str], start_mock: StartMock, command: str
) -> None:
    """As typed, but for the ports of the servers that examples before it start. Lines with errors are part of one."""
    typed = PLACE_OF_A_SERVER.sub(start_mock("latency=0.01").url, command)
    bin_folder = Path(sys.executable).parent

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", typed],
        cwd=ROOT if command.startswith("scripts/") else workplace,
        env={**environment, "PATH": f"{workplace}:{bin_folder}:{environment['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    expected = ExitCode.SOME_FAILED if "malformed" in command else ExitCode.OK
    assert done.returncode == expected, done.stderr


def test_the_mock_of_the_readme_serves_with_its_faults(
    tmp_path: Path, environment: dict[str, str], llmblast: RunLlmblast
) -> None:
    """As typed, but for the port; a run against it meets the faults that the line above it wrote, and ends well."""
    (index,) = (index for index, command in enumerate(COMMANDS) if command.startswith(SERVES) and "--faults" in command)
    subprocess.run(["bash", "-c", COMMANDS[index - 1]], cwd=tmp_path, check=True)
    arguments = shlex.split(COMMANDS[index].removesuffix("&"))[1:]

    with subprocess.Popen(
        [*LLMBLAST, *arguments, "--port", "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().removeprefix("listening on ").strip()
        try:
            done = llmblast("run", str(ROOT / "sample_data/prompts.jsonl"), "-u", url)
        finally:
            server.terminate()

    ledger = records(tmp_path / "ledger.jsonl")
    met = {entry["fault"] for entry in ledger if entry["event"] == "received"}
    assert done.returncode == 0, done.stderr
    assert met == {"500", "reset", None}
    assert sum(entry["event"] == "answered" and entry["complete"] and entry["status"] == 200 for entry in ledger) >= 241


def test_the_two_commands_stand_there() -> None:
    """They are what a newcomer types first."""
    assert COMMANDS[:2] == ["scripts/demo", RUNS_THIS_TEST]


def test_each_server_of_the_readme_is_started_before_it_is_used() -> None:
    """The port that an example sends to is one at which an earlier example listens."""
    listening: set[str] = set()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        urls = set(PLACE_OF_A_SERVER.findall(block))
        if block.lstrip().startswith(f"$ {SERVES}") or f"\n$ {SERVES}" in block:
            listening |= urls
        assert urls <= listening


def test_the_settings_of_the_readme_are_valid(tmp_path: Path) -> None:
    """Each example of a TOML file is read without an error."""
    examples = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    for example in examples:
        (tmp_path / "settings.toml").write_text(example)
        load_stages({}, str(tmp_path / "settings.toml"))

    assert examples


def test_the_lines_of_the_readme_can_be_sent() -> None:
    """Each example of an input line becomes a request, whose fields the table of simple lines names."""
    (example,) = re.findall(r"```json\n(.*?)```", README.split("## Input\n", 1)[1].split("\n## ", 1)[0], re.DOTALL)
    parser = RequestParser(Settings())
    parsed = [parser.parse(number, "0" * 16, line.encode()) for number, line in enumerate(example.splitlines(), 1)]

    assert all(isinstance(item, Request) for item in parsed)
    assert [item.output_format for item in parsed if isinstance(item, Request)] == ["llmblast"] * 2 + ["openai-batch"]


def test_the_table_of_endpoint_settings_is_the_programs() -> None:
    """Each setting of an endpoint, and no other."""
    assert names_in("Use a real provider") == {entry.name for entry in fields(EndpointSettings)}


def test_the_tables_of_record_fields_are_the_programs() -> None:
    """Each field that a record may have, and no other."""
    request = Request(1, "0" * 16, b'{"input":"\xff"}', 1, "hi", {"usage": "mine"}, repeat=2, batch="b1")
    invalid, reply = InvalidAnswers(request), Reply(200, body=b"{}")
    reply.via = "batch"
    success = Success(request, Answer("hi"), reply, "mock", 1, 1, b"{}", invalid, cached=True)
    failure = Failure(request, "no answer", "timeout", maybe_billed=1, body=b"{}", invalid=invalid, reply=reply)

    answered, failed = orjson.loads(render(success, body="always")), orjson.loads(error_record(failure))

    assert answered.keys() == names_in("Records with an answer")
    assert failed.keys() == names_in("Records without an answer") | {"key", "line", "id", "input"}


def option_table() -> str:
    """Return the table of options in the order of `--help`, with their names and help texts, but for hidden names."""
    argument, *options = get_command(app).commands["run"].params  # type: ignore[attr-defined] # a group, by construction
    groups = list(get_args(Group))
    rows = [f"| `INPUT` | {argument.help} |"]
    for option in sorted(options, key=lambda option: groups.index(option.rich_help_panel)):
        names = " ".join(f"`{name}`" for name in option.opts + option.secondary_opts if is_shown(name))
        rows.append(f"| {names} | {option.help} |")
    return "\n".join(("| option | meaning |", "|---|---|", *rows)) + "\n"


def with_option_table(readme: str) -> str:
    """Return the README with today's table of options."""
    before, _, after = re.split(r"(\| option \| meaning \|\n(?:\|.*\n)+)", readme)
    return before + option_table() + after


def test_the_option_table_is_the_programs() -> None:
    """Made from the fields of the settings, as `--help` is."""
    assert with_option_table(README) == README, "write it anew: .venv/bin/python -m tests.test_readme"


def test_the_exit_codes_are_the_programs() -> None:
    """Each code of the program, and no other."""
    assert [int(code) for code, _ in table_after("Exit codes")] == sorted(ExitCode)


def names_in(heading: str) -> set[str]:
    """Return the names in the first column of a table."""
    return {name for names, *_ in table_after(heading) for name in re.findall(r"`([^`]+)`", names)}


def test_the_benchmark_writes_its_section_and_nothing_else() -> None:
    """What `scripts/bench --readme` wrote is what it replaces the next time; all around stays."""
    from bench_table import rewritten  # here, since only pytest has `scripts` on its path

    first = rewritten(README, "| the figures of | today |")
    second = rewritten(first, "| the figures of | tomorrow |")

    assert first.replace("today", "tomorrow") == second
    assert table_in(README).isdisjoint(table_in(first))
    assert README.splitlines()[0] == first.splitlines()[0]
    assert README.splitlines()[-1] == first.splitlines()[-1]


def table_in(readme: str) -> set[str]:
    """The lines of the table that the benchmark writes."""
    written = readme.split("<!-- scripts/bench --readme", 1)[1].split("<!-- up to here", 1)[0]
    return {line for line in written.splitlines() if line.startswith("|")}


if __name__ == "__main__":
    (ROOT / "README.md").write_text(with_option_table(README))
