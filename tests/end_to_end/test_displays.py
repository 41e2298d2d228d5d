"""What a person sees on a terminal, in real processes on real pseudo-terminals."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, unmeasured, write_prompts
from tests.processes import start_run, wait_for_requests

HANG_S = 60.0
ESCAPE = "\x1b"


def on_a_terminal(folder: Path, environment: dict[str, str], command: str) -> str:
    """All that a shell command writes to its terminal, which is 80 columns wide."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "-c", command], {**unmeasured(environment), "COLUMNS": "80"})
    shown, ends_s = b"", time.monotonic() + HANG_S
    while time.monotonic() < ends_s and select.select([terminal], [], [], HANG_S)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so where all of its processes have gone
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "reader", ["cat", "{python} -c 'import sys\nfor line in sys.stdin: print(line, end=\"\")'", ""]
)
def test_answers_that_appear_on_the_terminal_are_whole(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, reader: str
) -> None:
    """The README's own example: no bar between them, and every one of them is there."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 40)
    run = f"{' '.join(LLMBLAST)} run - -o - -u {server.url} --rps 60 < prompts.jsonl"
    command = f"{run} | {reader.format(python=sys.executable)}" if reader else run

    shown = on_a_terminal(tmp_path, environment, command)

    assert ESCAPE not in shown
    assert sum(line.startswith('{"key":') and line.endswith("}") for line in shown.splitlines()) == 40
    assert "finished: every line has its answer" in shown


@pytest.mark.parametrize("where", ["-o save.jsonl", "-o - > save.jsonl", "-o - > /dev/null", "-o save.jsonl | cat"])
def test_a_person_sees_the_bar_where_the_answers_go_elsewhere(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, where: str
) -> None:
    """To a file, by whatever way."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 40)

    shown = on_a_terminal(
        tmp_path, environment, f"{' '.join(LLMBLAST)} run prompts.jsonl -u {server.url} --rps 60 {where}"
    )

    assert "━" in shown
    assert "ETA" in shown


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("input_format", ["simple", "batch"])
def test_the_command_that_shows_cut_off_answers_works(tmp_path: Path, llmblast: RunLlmblast, input_format: str) -> None:
    """As told in the summary, it shows as many as were counted."""
    body = '{"messages":[{"role":"user","content":"%d"}],"max_tokens":2}'
    simple = '{"input":"%d","params":{"max_tokens":2}}'
    batch = '{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":' + body + "}"
    lines = [simple % n if input_format == "simple" else batch % (n, n) for n in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")

    done = llmblast("run", "prompts.jsonl", "-u", "mock:?tokens=50")

    told = re.search(r"^cut off +([0-9]+) hit max_tokens or a filter:\s+(jq .*)$", done.stderr, re.MULTILINE)
    assert told is not None, done.stderr
    shown = subprocess.run(["bash", "-c", told[2]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(shown.stdout.splitlines()) == int(told[1]) == 5


def test_the_summary_counts_what_is_in_the_files(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Those of earlier runs too."""
    write_prompts(tmp_path / "prompts.jsonl", 10)
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write("not json\n")

    first = llmblast("run", "prompts.jsonl", "-u", "mock:", "--limit", "4")
    second = llmblast("run", "prompts.jsonl", "-u", "mock:")

    assert "finished: the first 4 lines are answered\n" in first.stderr
    assert "files     4 answers in save.jsonl\n" in first.stderr
    assert "files     10 answers in save.jsonl, 1 error in errors.jsonl\n" in second.stderr
    assert len(records(tmp_path / "save.jsonl")) == 10


@pytest.mark.parametrize("name", ["bin.dat", "-"])
def test_a_file_without_one_usable_line_is_named(tmp_path: Path, llmblast: RunLlmblast, name: str) -> None:
    """It is most likely another file than was meant."""
    text = '{"input":5}\n' * 5
    (tmp_path / "bin.dat").write_text(text)

    done = llmblast("run", name, "-u", "mock:", stdin=text)

    what = "standard input" if name == "-" else name
    assert f"finished: no line of {what} could be used, see errors.jsonl\n" in done.stderr


def test_an_endpoint_that_is_not_there_is_named_before_the_command(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The same command at once would fail again."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "http://127.0.0.1:9/v1,name=gpu1")

    assert done.returncode == 77
    assert "next: once gpu1 is reachable, run again: llmblast run prompts.jsonl" in done.stderr


@pytest.mark.parametrize(
    ("number", "what"), [(signal.SIGINT, "press Ctrl-C again"), (signal.SIGTERM, "send the signal again")]
)
def test_a_stop_says_what_a_second_one_does(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, number: signal.Signals, what: str
) -> None:
    """And that it may cost something."""
    server = start_mock("latency=0.5&jitter=0")
    write_prompts(tmp_path / "prompts.jsonl", 40)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "5")
    wait_for_requests(server, 5, process)
    process.send_signal(number)

    _, stderr = process.communicate(timeout=HANG_S)

    assert f"{what} to drop them (they may be billed)" in stderr
