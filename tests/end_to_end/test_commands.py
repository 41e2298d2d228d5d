"""The commands beside `run`: check, config show, mock, version."""

import subprocess
import tomllib
from pathlib import Path

import orjson
import pytest

from tests.conftest import LLMBLAST, ROOT, RunLlmblast, StartMock, write_prompts


def test_check_names_every_bad_line_and_sends_nothing(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Exit code 3 with bad lines; no file is written."""
    done = llmblast("check", str(ROOT / "sample_data/malformed.jsonl"))

    assert done.returncode == 3
    assert len([line for line in done.stdout.splitlines() if "/malformed.jsonl:" in line]) == 20
    assert "28 read, 8 good, 20 bad" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_names_a_custom_id_that_stands_twice(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A run sends both lines, so they are no bad ones; the same id in lines of another kind is nobody's business."""
    line = '{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}\n'
    simple = '{"id":"a","input":"2+2?"}\n'
    (tmp_path / "batch.jsonl").write_text(line % "a" + line % "b" + line % "a" + 2 * simple + line % "b")

    done = llmblast("check", "batch.jsonl")
    for_machines = llmblast("check", "batch.jsonl", "--json")

    assert done.returncode == 0
    assert [text for text in done.stdout.splitlines() if 'custom_id "' in text] == [
        'batch.jsonl:3: custom_id "a" is also at batch.jsonl:1: give each line its own',
        'batch.jsonl:6: custom_id "b" is also at batch.jsonl:2: give each line its own',
    ]
    assert "2 repeat the custom_id of an earlier line" in done.stdout
    assert orjson.loads(for_machines.stdout)["doubled_custom_ids"] == 2


def test_dry_run_is_the_same(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Time at the limits is told, the server hears nothing."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 100)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--rps", "50", "--tpm", "6000", "--dry-run")

    assert done.returncode == 0
    assert "100 read, 100 good, 0 bad" in done.stdout
    assert "2.0 s at 50 rps" in done.stdout
    assert "at 6,000 tpm" in done.stdout
    assert server.received == 0
    assert not (tmp_path / "save.jsonl").exists()


def test_check_of_a_good_file(llmblast: RunLlmblast) -> None:
    """Exit code 0, and limits of all endpoints together."""
    done = llmblast("check", str(ROOT / "sample_data/prompts.jsonl"), "-c", str(ROOT / "sample_data/endpoints.toml"))

    assert done.returncode == 0, done.stderr
    assert "241 read, 241 good, 0 bad" in done.stdout
    assert "at 40 rps" in done.stdout


def test_check_may_be_quiet_or_for_machines(llmblast: RunLlmblast) -> None:
    """With --json standard output is one object; with -q only what is wrong is told. --dry-run takes both, too."""
    prompts, malformed = str(ROOT / "sample_data/prompts.jsonl"), str(ROOT / "sample_data/malformed.jsonl")

    told = llmblast("check", malformed, "--json", "--rps", "4")
    quiet = llmblast("run", prompts, "-u", "mock:", "--dry-run", "-q")
    quiet_of_bad = llmblast("check", malformed, "-q")

    summary = orjson.loads(told.stdout)
    assert (told.returncode, summary["exit_code"], summary["at_least_s"]) == (3, 3, {"rps": 2.0})
    assert summary["lines"] == {"read": 28, "good": 8, "bad": 20, "answered": 0, "failed": 0, "to_send": 8}
    assert len(told.stderr.splitlines()) == len(quiet_of_bad.stdout.splitlines()) == 20
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["check", "p.jsonl"], ["--help"], ["config", "show"], ["run", "p.jsonl", "-u", "mock:", "--json"]]
)
def test_a_full_standard_output_is_told_in_a_sentence(
    tmp_path: Path, environment: dict[str, str], arguments: list[str]
) -> None:
    """Exit code 74, and no traceback."""
    write_prompts(tmp_path / "p.jsonl", 3)

    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*LLMBLAST, *arguments], cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, check=False
        )

    *_, last = done.stderr.decode().splitlines()
    assert (done.returncode, last) == (
        74,
        "llmblast: standard output: cannot be written: No space left on device: write to another place",
    )
    assert b"Traceback" not in done.stderr


def test_config_show_prints_toml_that_loads_again(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """What is printed is a configuration; what may be a secret is hidden."""
    (tmp_path / "mine.toml").write_text(
        'rps = 7\nmodel = "m"\n[params]\ntemperature = 0.5\nstop = ["a"]\n'
        '[[endpoints]]\nurl = "mock:"\nheaders = { "X-Key" = "secret-canary" }\n'
        'key_command = "echo secret-canary"\nproxy = "http://user:secret-canary@proxy:3128"\nkey_env = "MY_KEY"\n'
        '[[endpoints]]\nurl = "https://h/v1?key=secret-canary"\nkey_file = "sk-secret-canary"\n'
    )

    shown = llmblast("config", "show", "-c", "mine.toml")
    (tmp_path / "again.toml").write_text(shown.stdout)
    again = llmblast("config", "show", "-c", "again.toml")

    assert shown.returncode == again.returncode == 0, shown.stderr
    values = tomllib.loads(shown.stdout)
    assert (values["rps"], values["model"], values["params"]) == (7, "m", {"temperature": 0.5, "stop": ["a"]})
    assert values["endpoints"][0]["headers"] == {"X-Key": "(hidden)"}
    assert values["endpoints"][0]["key_command"] == values["endpoints"][1]["key_file"] == "(hidden)"
    assert values["endpoints"][0]["proxy"] == "http://(hidden)@proxy:3128"
    assert values["endpoints"][0]["key_env"] == "MY_KEY"
    assert values["endpoints"][1]["url"] == "https://h/v1?key=(hidden)"
    assert "secret-canary" not in shown.stdout
    assert again.stdout == shown.stdout


def test_settings_come_from_flag_then_variable_then_file(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Precedence as documented; OPENAI_BASE_URL is the endpoint of last resort."""
    (tmp_path / "mine.toml").write_text('model = "from-file"\n')

    file_only = llmblast("config", "show", "-c", "mine.toml", OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    variable = llmblast(
        "config", "show", LLMBLAST_CONFIG="mine.toml", LLMBLAST_ENDPOINTS="mock:,weight=2", LLMBLAST_RPS="4"
    )
    flag = llmblast("config", "show", "-c", "mine.toml", "-m", "from-flag", "--rps", "7", LLMBLAST_RPS="4")

    assert tomllib.loads(file_only.stdout)["model"] == "from-file"
    assert tomllib.loads(file_only.stdout)["endpoints"][0]["url"] == "http://127.0.0.1:1/v1"
    assert tomllib.loads(variable.stdout)["endpoints"][0]["weight"] == 2
    assert tomllib.loads(variable.stdout)["rps"] == 4
    assert (tomllib.loads(flag.stdout)["model"], tomllib.loads(flag.stdout)["rps"]) == ("from-flag", 7)


def test_what_a_full_disk_leads_to_has_variables(llmblast: RunLlmblast) -> None:
    """Checked as the flags are."""
    shown = llmblast("config", "show", LLMBLAST_DISK_WAIT="0.5", LLMBLAST_SPOOL="place")
    wrong = llmblast("config", "show", LLMBLAST_DISK_WAIT="-1")

    assert shown.returncode == 0, shown.stderr
    assert (tomllib.loads(shown.stdout)["disk_wait"], tomllib.loads(shown.stdout)["spool"]) == (0.5, "place")
    assert wrong.returncode == 2
    assert "LLMBLAST_DISK_WAIT: -1 is not allowed: it must be at least 0" in wrong.stderr


def test_variables_serve_run(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Every option of run has its variable."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 9)

    done = llmblast("run", LLMBLAST_INPUT="prompts.jsonl", LLMBLAST_ENDPOINTS=server.url, LLMBLAST_LIMIT="4")

    assert done.returncode == 0, done.stderr
    assert server.received == 4


def test_version_is_told(llmblast: RunLlmblast) -> None:
    """As every tool does."""
    assert llmblast("--version").stdout.startswith("llmblast 0.")
    assert llmblast("-V").stdout == llmblast("--version").stdout


def test_no_arguments_show_the_help(llmblast: RunLlmblast) -> None:
    """The commands are listed."""
    done = llmblast()

    assert "run" in done.stdout + done.stderr
    assert "check" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prompts.jsonl"], "prompts.jsonl: is not a command: to send a file: llmblast run prompts.jsonl"),
        (["runn"], "runn: unknown command; did you mean run?"),
        (["frobnicate"], "frobnicate: unknown command: write one of run, check, convert, batches, mock, config"),
        (["config", "shwo"], "shwo: unknown command; did you mean show?"),
        (["mock", "--port", "x"], "--port: 'x' is not a whole number"),
        (["mock", "--port", "99999"], "--port: '99999' is not allowed: it must be from 0 to 65535"),
        (["mock", "--sigma=x"], "--sigma: 'x' is not a number"),
        (["run", "p", "--api-key", "sk-secret"], "--api-key: keys are not allowed on the command line: export OPENAI_"),
        (["run", "p", "--api_key=sk-secret"], "--api_key: keys are not allowed on the command line"),
        (["run", "p", "--retries", "3"], "--retries: write --max-attempts 4: tries in all, the first one included"),
        (["run", "p", "--max-retries=x"], "--max-retries: write --max-attempts N"),
        (["run", "p", "--workers", "3"], "--workers: write --concurrency N"),
        (
            ["run", "p", "--max_tokens", "50"],
            "--max_tokens: sampling parameters are one option: write --params",
        ),
        (
            ["run", "p", "--temperature", "0"],
            "--temperature: sampling parameters are one option: write",
        ),
        (["check", "p", "--base-url", "x"], "--base-url: write --url URL"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(llmblast: RunLlmblast, arguments: list[str], sentence: str) -> None:
    """In the style of all errors; a key is never repeated."""
    done = llmblast(*arguments)

    (told,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert told.startswith(f"llmblast: {sentence}")
    assert "secret" not in told


def test_a_switch_in_a_variable_is_checked(llmblast: RunLlmblast) -> None:
    """The message names the variable."""
    done = llmblast("config", "show", LLMBLAST_QUIET="maybe")

    assert (done.returncode, done.stderr) == (2, "llmblast: LLMBLAST_QUIET: 'maybe' is neither true nor false\n")


def test_files_may_be_named_as_in_other_tools(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """`--input` and `--output`; an argument goes before a variable."""
    write_prompts(tmp_path / "prompts.jsonl", 2)

    done = llmblast("run", "-i", "prompts.jsonl", "--output", "out.jsonl", "-u", "mock:?latency=0", "--max-time", "1m")
    again = llmblast("run", "prompts.jsonl", "-o", "out.jsonl", "-u", "mock:", LLMBLAST_INPUT="other.jsonl")

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("limit", [8, 14, 20])
@pytest.mark.parametrize("command", [["run", "prompts.jsonl", "-u", "mock:"], ["check", "prompts.jsonl"]])
def test_too_few_files_are_told(tmp_path: Path, environment: dict[str, str], command: list[str], limit: int) -> None:
    """The limit and how to raise it; nothing is sent."""
    write_prompts(tmp_path / "prompts.jsonl", 2)
    script = f'ulimit -n {limit}; exec "$@"'

    done = subprocess.run(
        ["bash", "-c", script, "bash", *LLMBLAST, *command],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert f"llmblast: this process may open {limit} files and needs " in done.stderr
    assert done.stderr.endswith("raise the limit: ulimit -n 1024\n")
    assert len(done.stderr.splitlines()) == 1
