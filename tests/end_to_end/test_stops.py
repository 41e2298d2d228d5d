"""How runs end early, and what they say: exit codes, one clear sentence, nothing lost."""

import os
import subprocess
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from llmblast.scheduling.refusals import FIRST_PROBES, PROBES
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, write_prompts
from tests.processes import start_run, wait_for_requests

NOBODY = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["missing.jsonl", "-u", "mock:"], 66, "missing.jsonl: no such file: name an existing JSONL file"),
        ([".", "-u", "mock:"], 66, ".: is a directory"),
        (["prompts.jsonl"], 2, "no endpoint: name one with --url"),
        (["prompts.jsonl", "-u", "foo"], 2, "endpoint 'foo': not a URL"),
        (
            ["prompts.jsonl", "-u", "mock:,wieght=3"],
            2,
            "--url mock:,wieght=3: unknown setting wieght; did you mean weight?",
        ),
        (["prompts.jsonl", "-u", "mock:,rps"], 2, "'rps' is not a setting: write name=value"),
        (["prompts.jsonl", "-u", "mock:?rsp=5"], 2, "mock: rsp: unknown setting: did you mean rps?"),
        (["prompts.jsonl", "-u", "mock:", "--rps", "-1"], 2, "--rps: -1 is not allowed: it must be greater than 0"),
        (
            ["prompts.jsonl", "-u", "mock:", "--route", "best"],
            2,
            "--route: 'best' is not one of weighted, least-loaded, fastest",
        ),
        (["prompts.jsonl", "-u", "mock:", "--timeline", "-"], 2, "--timeline -: is not a file"),
        (["prompts.jsonl", "-u", "mock:", "--max-errors", "few"], 2, "--max-errors 'few': write a count"),
        (["prompts.jsonl", "-u", "mock:", "--params", "{"], 2, "--params '{': not JSON"),
        (["prompts.jsonl", "-u", "mock:", "--params", "[]"], 2, "write an object"),
        (["prompts.jsonl", "-u", "mock:", "--prompt", "{text"], 2, "--prompt"),
        (["prompts.jsonl", "-u", "https://api.openai.com/v1"], 2, "the API key is missing: export OPENAI_API_KEY"),
        (["prompts.jsonl", "-u", f"{NOBODY},key_env=NOWHERE"], 2, "NOWHERE is not set: export NOWHERE=..."),
        (["prompts.jsonl", "-c", "missing.toml"], 2, "missing.toml: cannot be read"),
        (["prompts.jsonl", "-c", "broken.toml"], 2, "broken.toml: not TOML"),
        (["prompts.jsonl", "-c", "typo.toml"], 2, "typo.toml: unknown setting rsp; did you mean rps?"),
        (["prompts.jsonl", "-u", "mock:", "-o", "prompts.jsonl"], 2, "prompts.jsonl: is also the input"),
        (["prompts.jsonl", "-u", "mock:", "-o", "a.jsonl", "-e", "a.jsonl"], 2, "is named by --save and by --errors"),
        (["prompts.jsonl", "-u", "mock:", "-o", "a.jsonl", "-e", "./a.jsonl"], 2, "is named by --save and by --errors"),
        (["prompts.jsonl", "-u", "mock:", "-o", "-", "--json"], 2, "both write to standard output"),
        (
            ["prompts.jsonl", "-u", "mock:", "--timeline", "./save.jsonl"],
            2,
            "--timeline ./save.jsonl: is also the output",
        ),
        (
            ["prompts.jsonl", "-c", "single.toml"],
            2,
            "single.toml: unknown setting url: write [[",
        ),
        (
            ["prompts.jsonl", "-u", "mock:,api_key=x"],
            2,
            "--url mock:,api_key=...: keys are not allowed here: name the variable",
        ),
        (["prompts.jsonl", "-u", "mock:", "-o", "nowhere/save.jsonl"], 73, "its directory does not exist"),
        (["prompts.jsonl", "-u", "mock:", "-o", "typo.toml"], 73, "is not an output of llmblast"),
        (["prompts.jsonl", "--requests_filepath", "other.jsonl", "-u", "mock:"], 2, "name the input twice"),
        (["prompts.jsonl", "-u", "mock:", "--rps", "abc"], 2, "--rps: 'abc' is not a number"),
        (["prompts.jsonl", "-u", "mock:", "--rps"], 2, "--rps: needs a value"),
        (["prompts.jsonl", "-u", "mock:", "-o", ""], 2, "--save: is empty"),
        (["prompts.jsonl", "-u", "mock:", "-o", "."], 2, "--save .: is a directory"),
        (["prompts.jsonl", "-u", "mock:", "-m", b"\xff"], 2, "--model: is not valid UTF-8"),
        (["prompts.jsonl", "missing.jsonl", "-u", "mock:"], 66, "missing.jsonl: no such file"),
        (["prompts.jsonl", "*.csv", "-u", "mock:"], 66, "*.csv: no such file, nor one that matches it as a pattern"),
        (["prompts.jsonl", "--follow", "-", "-u", "mock:"], 2, "--follow: standard input cannot be followed"),
        (["prompts.jsonl", "-u", "mock:", "--quiet=no"], 2, "--quiet: takes no value"),
        (["prompts.jsonl", "--modle", "m"], 2, "--modle: unknown option; did you mean --model?"),
        (["prompts.jsonl", "--zzz"], 2, "--zzz: unknown option: see llmblast run --help"),
    ],
)
def test_a_persons_mistake_gets_one_sentence(
    tmp_path: Path, llmblast: RunLlmblast, arguments: list[str], exit_code: int, sentence: str
) -> None:
    """Place, what is wrong and the fix; the exit code of its kind; never a traceback."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    (tmp_path / "broken.toml").write_text("rps = \n")
    (tmp_path / "typo.toml").write_text("rsp = 5\n")
    (tmp_path / "single.toml").write_text('\ufeffurl = "mock:"\n')  # as some editors begin a file

    done = llmblast("run", *arguments, OPENAI_API_KEY="")

    assert done.returncode == exit_code, done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("llmblast: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "save.jsonl").exists() or (tmp_path / "save.jsonl").read_bytes() == b""


def test_a_directory_that_cannot_be_written(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """/proc takes no files, not even from root."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "-o", "/proc/save.jsonl")

    assert done.returncode == 73
    assert "/proc/save.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_named(llmblast: RunLlmblast) -> None:
    """The command line itself answers wrong usage with exit code 2."""
    done = llmblast("run", "prompts.jsonl", "--rsp", "5")

    assert done.returncode == 2
    assert "--rsp" in done.stderr
    assert "--rps" in done.stderr


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_an_endpoint_that_nobody_listens_at(tmp_path: Path, llmblast: RunLlmblast, transport: str) -> None:
    """The run ends at once, names the address, and every line stays pending."""
    write_prompts(tmp_path / "prompts.jsonl", 50)

    done = llmblast("run", "prompts.jsonl", "-u", NOBODY, "--transport", transport)

    assert done.returncode == 77
    assert "no endpoint can be reached: 127.0.0.1:9: connection refused: is the server running?" in done.stderr
    assert "50 pending" in done.stderr
    assert records(tmp_path / "errors.jsonl") == []


def test_a_dead_endpoint_leaves_its_work_to_the_other(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Nothing is lost and nothing fails because one of two is down."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 100)

    done = llmblast("run", "prompts.jsonl", "-u", NOBODY, "-u", server.url)

    assert done.returncode == 0, done.stderr
    assert len(server.ledger) == 100


def test_endpoints_that_refuse_the_key_leave_the_lines_pending(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """401s take the endpoint out; no error records; with the right key the same command completes; no key is shown."""
    server = start_mock("latency=0&key=right")
    write_prompts(tmp_path / "prompts.jsonl", 40)
    arguments = ("run", "prompts.jsonl", "-u", f"{server.url},key_env=KEY", "-j", "10")

    refused = llmblast(*arguments, KEY="wrong-canary")
    done = llmblast(*arguments, KEY="right")

    assert refused.returncode == 77
    assert "all endpoints rejected the requests" in refused.stderr
    assert "wrong-canary" not in refused.stderr + refused.stdout
    assert server.received <= 10 + PROBES + 1 + 40
    assert done.returncode == 0
    assert len(records(tmp_path / "save.jsonl")) == 40


def test_max_errors_gives_up(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """More failed lines than allowed: nothing more is sent, exit code 4, the rest stays pending."""
    too_long = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
    server = start_mock(script=lambda index, body: ScriptedReply(400, too_long))
    write_prompts(tmp_path / "prompts.jsonl", 500)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--max-errors", "10", "-j", "4")

    assert done.returncode == 4
    assert "--max-errors" in done.stderr
    assert 11 <= len(records(tmp_path / "errors.jsonl")) <= 15


def test_max_errors_as_a_share(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A share counts from the twentieth failed line on."""
    server = start_mock(script=lambda index, body: ScriptedReply(400, b"{}") if index % 2 else None)
    write_prompts(tmp_path / "prompts.jsonl", 500)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--max-errors", "20%", "-j", "1")

    assert done.returncode == 4
    assert len(records(tmp_path / "errors.jsonl")) == 20


def test_max_time_stops(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Exit code 5, what is in flight finishes, and the same command goes on."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 100)

    stopped = llmblast("run", "prompts.jsonl", "-u", server.url, "--rps", "20", "--max-time", "1")
    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert stopped.returncode == 5
    assert done.returncode == 0
    assert len(server.ledger) == 100


def test_a_run_that_is_abandoned_counts_what_it_leaves(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With no grace at all, each request that has no record is told of."""
    server = start_mock("latency=1")
    write_prompts(tmp_path / "prompts.jsonl", 300)
    arguments = ("prompts.jsonl", "-j", "30", "-u", f"{server.url},adaptive=false")

    cut_short = llmblast("run", *arguments, "--max-time", "1.5", "--grace", "0", "--json")
    summary = orjson.loads(cut_short.stdout)

    assert cut_short.returncode == 5, cut_short.stderr
    assert summary["requests"]["sent"] == server.received
    assert summary["requests"]["abandoned"] == server.received - len(records(tmp_path / "save.jsonl"))


@pytest.mark.parametrize("value", ["2", "4", "999"])
def test_several_processes_are_refused(tmp_path: Path, llmblast: RunLlmblast, value: str) -> None:
    """Before anything is sent or created, in one sentence that says what to do."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--processes", value)

    assert done.returncode == 2
    assert done.stderr == (
        f"llmblast: --processes {value}: is not available in this version and returns with quotas "
        "that processes share: leave it out (one process uses one core)\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.parametrize("value", ["0", "-1", "1000", "two", "1.5"])
def test_a_number_of_processes_that_will_not_do(tmp_path: Path, llmblast: RunLlmblast, value: str) -> None:
    """Said before anything is sent."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--processes", value)

    assert done.returncode == 2
    assert "--processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "save.jsonl").exists()


def test_one_process_may_be_asked_for(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """It is what every run is."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--processes", "1")

    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 3


def test_a_400_fails_at_once(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A request that the provider finds wrong is never sent twice; the record holds the provider's words."""
    error = orjson.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}})
    server = start_mock(script=lambda index, body: ScriptedReply(400, error))
    write_prompts(tmp_path / "prompts.jsonl", 20)

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    failed = records(tmp_path / "errors.jsonl")
    assert done.returncode == 3
    assert len(server.ledger) == 20
    assert {(r["status"], r["code"], r["error"]) for r in failed} == {
        (400, "context_length_exceeded", "HTTP 400: too long")
    }


def test_attempts_are_bounded(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A line that draws a 500 each time is given up after `max_attempts`."""
    server = start_mock("latency=0&errors=1")
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-a", "3")

    assert done.returncode == 3
    assert len(server.ledger) == 9
    assert {record["attempts"] for record in records(tmp_path / "errors.jsonl")} == {3}


def test_a_timeout_ends_an_attempt(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """No reply in time may have been paid for: it is tried once more and the record says so."""
    server = start_mock("latency=20&jitter=0")
    write_prompts(tmp_path / "prompts.jsonl", 2)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--timeout", "0.3")

    failed = records(tmp_path / "errors.jsonl")
    assert done.returncode == 3
    assert len(server.ledger) == 4
    assert {(record["code"], record["maybe_billed"]) for record in failed} == {("timeout", 2)}


def test_a_second_run_on_the_same_output_stops_at_once(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Exit code 73, and the first one is not disturbed."""
    server = start_mock("latency=3&jitter=0")
    write_prompts(tmp_path / "prompts.jsonl", 20)
    first = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-q")
    wait_for_requests(server, 20, first)

    second = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert second.returncode == 73
    assert "another run is writing to it" in second.stderr
    first.communicate(timeout=20)
    assert first.returncode == 0
    assert len(records(tmp_path / "save.jsonl")) == 20


def test_overwrite_empties_nothing_when_an_output_is_blocked(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Both outputs are locked before the first one is emptied."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5)
    llmblast("run", "prompts.jsonl", "-u", server.url)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--overwrite", "-e", "nowhere/errors.jsonl")

    assert done.returncode == 73
    assert len(records(tmp_path / "save.jsonl")) == 5


@pytest.mark.parametrize("latency", ["0.01", "2"])
@pytest.mark.parametrize("options", [[], ["-v"], ["--progress", "bar"], ["--overwrite", "--timeline", "t"]])
def test_a_reader_that_goes_away_ends_the_run(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, options: list[str], latency: str
) -> None:
    """`llmblast run ... -o - | head -n 1`: exit code 141 as by SIGPIPE, and one sentence that names the spool, if any;
    what is in flight is not waited for.
    """
    server = start_mock(
        f"latency={latency}", script=lambda index, body: None if index < 2 else ScriptedReply(delay_s=60)
    )
    write_prompts(tmp_path / "prompts.jsonl", 3000)
    process = subprocess.Popen(
        [*LLMBLAST, "run", "prompts.jsonl", "-o", "-", "-u", server.url, "--rps", "500", *options],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=30)

    last = stderr.splitlines()[-1]
    assert process.returncode == 141, stderr
    assert "llmblast: standard output: its reader has closed it" in last
    assert "defect" not in stderr
    assert "requests  " not in stderr


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1"])
def test_without_a_reader_nothing_is_sent(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, output: str
) -> None:
    """`ls | xargs -n1 llmblast run -o - | head`: those that start when the reader has gone cost nothing."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 30)
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "-o", output],
        cwd=tmp_path,
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writing)

    assert done.returncode == 141
    assert done.stderr.count("\n") == 1, done.stderr
    assert server.received == 0


def test_closed_descriptors_are_survived(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """`<&- >&-`, as some schedulers start things: the records go where they belong."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5)
    command = " ".join([*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "<&-", ">&-", "2>&-"])

    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False)

    assert done.returncode == 0
    assert len(records(tmp_path / "save.jsonl")) == 5


def test_without_input_a_terminal_is_not_waited_for(tmp_path: Path, environment: dict[str, str]) -> None:
    """Typed without INPUT, the command says so instead of hanging."""
    leader, terminal = os.openpty()
    done = subprocess.run(
        [*LLMBLAST, "run", "-u", "mock:"],
        cwd=tmp_path,
        env=environment,
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    os.close(leader)
    os.close(terminal)

    assert done.returncode == 2
    assert "no input: pipe a JSONL file in" in done.stderr


@pytest.mark.parametrize("status", [301, 404, 405])
def test_an_endpoint_that_never_answered_is_blamed_for_what_is_not_there(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, status: int
) -> None:
    """A wrong path or model must not pour the file into the errors: the lines stay pending, exit code 77."""
    server = start_mock(script=lambda index, body: ScriptedReply(status, b"<html>not here</html>"))
    write_prompts(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "8")

    assert done.returncode == 77
    assert "it has never answered: check its URL and its model" in done.stderr
    assert f"{server.received} sent, 0 retries, 0 x 429" in done.stderr
    assert server.received <= 8 + FIRST_PROBES + 1
    assert records(tmp_path / "errors.jsonl") == []


def test_a_404_from_an_endpoint_that_answers_is_the_lines_own(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Once it has answered, a line that it never finds fails after its attempts."""
    server = start_mock(script=lambda index, body: ScriptedReply(404, b"{}") if b"Question 5?" in body else None)
    write_prompts(tmp_path / "prompts.jsonl", 30)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "1", "-a", "3")

    assert done.returncode == 3
    assert [(r["status"], r["attempts"]) for r in records(tmp_path / "errors.jsonl")] == [(404, 3)]


def test_records_for_a_closed_stdout_fail(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """`-o - >&-` must not look like success."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5)
    command = " ".join([*LLMBLAST, "run", "prompts.jsonl", "-o", "-", "-u", server.url, ">&-"])

    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )

    assert done.returncode == 74
    assert "Traceback" not in done.stderr


def test_going_on_after_overwrite_does_not_start_anew(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """The command that is told to go on with keeps what was paid for."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 100)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--overwrite", "--rps", "20", "--max-time", "0.5")

    assert done.returncode == 5
    assert "next: llmblast run prompts.jsonl" in done.stderr
    assert "--overwrite" not in done.stderr


def test_standard_output_is_honest_about_going_on(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """What went to a pipe cannot be found again."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 100)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-o", "-", "--rps", "20", "--max-time", "0.5")

    assert done.returncode == 5
    assert "standard output cannot be resumed" in done.stderr
    assert "next:" not in done.stderr


def test_lines_that_failed_earlier_are_told_apart(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Skipped lines with an error record are no answers, and the way to try them again is named."""
    (tmp_path / "prompts.jsonl").write_text('{"input": "a"}\nnot json\n')
    llmblast("run", "prompts.jsonl", "-u", "mock:")

    done = llmblast("run", "prompts.jsonl", "-u", "mock:")

    assert done.returncode == 3
    assert "2 skipped (1 answered, 1 failed earlier" in done.stderr
    assert "--retry-errors all" in done.stderr


def test_an_empty_input_is_said_to_be_empty(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Nothing to do is no failure, but it is no answer either."""
    (tmp_path / "prompts.jsonl").write_text("\n\n")

    done = llmblast("run", "prompts.jsonl", "-u", "mock:")

    assert done.returncode == 0
    assert "there are no lines in prompts.jsonl" in done.stderr


def test_of_a_crowd_only_probes_meet_an_endpoint_that_is_not_there(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """64 go at once when the run begins; a third of them would be wasted on the one of three that nobody listens at."""
    servers = (start_mock("latency=0.2"), start_mock("latency=0.2"))
    write_prompts(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", NOBODY, "-u", servers[0].url, "-u", servers[1].url, "--json")

    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 300
    assert orjson.loads(done.stdout)["endpoints"][0]["errors"] <= 5
