"""Answers into a pipe or device: errors go to a file that many share, and nothing is put beside the pipe."""

import os
import subprocess
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, unmeasured, write_prompts
from tests.processes import start_run

BAD_LINE = "not JSON\n"
OLD_ERROR = b'{"key":"00000000000000aa","line":9,"transient":true}\n'


def write_mixed(path: Path, good: int, bad: int) -> None:
    """Good lines that are long, and bad ones, in turn; no two files have one in common."""
    lines = [orjson.dumps({"input": f"{path.name} {n} " + "x" * 3000}).decode() for n in range(good)]
    lines += [f"not JSON: {path.name} {n}" for n in range(bad)]
    path.write_text("\n".join(lines) + "\n")


def test_several_pipes_share_one_file_of_errors(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """`xargs -P4`: no run waits for another, no record is torn, in the errors or in the common pipe."""
    server = start_mock("latency=0.01")
    for number in range(8):
        write_mixed(tmp_path / f"in{number}.jsonl", good=60, bad=20)
    command = f"ls in*.jsonl | xargs -P4 -I{{}} {' '.join(LLMBLAST)} run {{}} -u {server.url} -o - -q"

    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False
    )

    answers = [orjson.loads(line) for line in done.stdout.splitlines()]
    errors = records(tmp_path / "errors.jsonl")
    assert b"another run" not in done.stderr
    assert len({answer["key"] for answer in answers}) == len(answers) == 8 * 60
    assert len({error["key"] for error in errors}) == len(errors) == 8 * 20
    assert {path.name for path in tmp_path.iterdir()} == {"errors.jsonl", *(f"in{n}.jsonl" for n in range(8))}


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/null", "/dev/fd/1", "/proc/self/fd/2", ">(cat > copy)"])
def test_a_pipe_by_any_name(tmp_path: Path, environment: dict[str, str], start_mock: StartMock, output: str) -> None:
    """Errors in errors.jsonl, exit code by this input alone; an old error is neither retried nor counted."""
    (tmp_path / "errors.jsonl").write_bytes(OLD_ERROR)
    write_prompts(tmp_path / "prompts.jsonl", 5)
    command = f"{' '.join(LLMBLAST)} run prompts.jsonl -u {start_mock().url} -q -o {output}"

    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "errors.jsonl").read_bytes() == OLD_ERROR
    assert {path.name for path in tmp_path.iterdir()} <= {"errors.jsonl", "prompts.jsonl", "copy"}


@pytest.mark.parametrize("name", ["errors.jsonl", "mine.jsonl"])
def test_errors_are_appended(tmp_path: Path, llmblast: RunLlmblast, name: str) -> None:
    """Behind those of other runs, also where somebody asks to start anew: they are not this run's alone."""
    (tmp_path / name).write_bytes(OLD_ERROR)
    (tmp_path / "prompts.jsonl").write_text(BAD_LINE)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "-o", "/dev/null", "-e", name, "--overwrite", "-q")

    assert done.returncode == 3
    assert [error["line"] for error in records(tmp_path / name)] == [9, 1]


def test_a_named_pipe_is_one(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """Nothing stands beside it afterwards, and its run cannot be gone on with."""
    os.mkfifo(tmp_path / "pipe")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    process = start_run(
        tmp_path, environment, "prompts.jsonl", "-u", start_mock().url, "-o", "pipe", "--max-time", "60"
    )

    answers = (tmp_path / "pipe").read_bytes().splitlines()
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 0, stderr
    assert len(answers) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"errors.jsonl", "pipe", "prompts.jsonl"}


def test_errors_into_a_pipe_that_nothing_reads_do_not_hang(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """One sentence, at once."""
    os.mkfifo(tmp_path / "pipe")
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "-e", "pipe")

    assert done.returncode == 73
    assert "pipe: is a pipe that nothing reads: start its reader first, or name a file with --errors" in done.stderr


@pytest.mark.parametrize(
    ("output", "code", "sentence"),
    [
        ("/dev/nul", 73, "/dev/nul: there is no such device"),
        ("/dev/fd/77", 73, "/dev/fd/77: is not an open descriptor"),
        ("folder", 73, "folder: is a directory"),
    ],
)
def test_what_is_no_output_is_told_at_the_start(
    tmp_path: Path, llmblast: RunLlmblast, output: str, code: int, sentence: str
) -> None:
    """Nothing is sent, nothing is created."""
    (tmp_path / "folder").mkdir()
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "-o", output)

    assert done.returncode == code
    assert sentence in done.stderr
    assert not Path("/dev/nul").exists()


@pytest.mark.parametrize("redirection", [">> prompts.jsonl", "-e errors.jsonl > errors.jsonl"])
def test_standard_output_may_be_a_file_that_is_taken(
    tmp_path: Path, environment: dict[str, str], redirection: str
) -> None:
    """Its own input, which would never end, or its own errors."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    before = (tmp_path / "prompts.jsonl").read_bytes()
    command = f"{' '.join(LLMBLAST)} run prompts.jsonl -u mock: -q -o - {redirection}"

    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=unmeasured(environment), capture_output=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert b"standard output: is " in done.stderr
    assert (tmp_path / "prompts.jsonl").read_bytes() == before


def test_a_file_of_errors_that_a_run_holds_is_told_at_once(
    tmp_path: Path, environment: dict[str, str], llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """The run into a pipe would wait for hours with each of its errors."""
    server = start_mock(script=lambda index, body: ScriptedReply(delay_s=30))
    write_prompts(tmp_path / "prompts.jsonl", 1)
    holder = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url)
    while server.received == 0:
        assert holder.poll() is None

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "-o", "-")

    holder.kill()
    holder.communicate()
    assert done.returncode == 73
    assert "errors.jsonl: another run is writing to it" in done.stderr


@pytest.mark.parametrize(("latency", "count"), [(0.01, 1000), (0.5, 100)])
def test_head_has_enough(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, latency: float, count: int
) -> None:
    """Both end soon and quietly. What `head` did not read is in a file from which the same command goes on."""
    server = start_mock(f"latency={latency}")
    write_prompts(tmp_path / "prompts.jsonl", count)
    command = " ".join([*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "-j", "50", "-q"])

    done = subprocess.run(
        ["bash", "-c", f"{command} -o - | head -5; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=unmeasured(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sent = server.received
    (told,) = done.stderr.splitlines()
    saved = told.partition("to go on from there: --save ")[2].rstrip(")")
    kept = len(records(Path(saved)))
    again = subprocess.run(
        ["bash", "-c", f"{command} -o {saved}"], cwd=tmp_path, env=unmeasured(environment), timeout=60, check=False
    )

    assert done.returncode == 141
    assert len(done.stdout.splitlines()) == 5
    assert sent < count
    assert again.returncode == 0
    assert server.received == sent + count - kept
    assert len({record["key"] for record in records(Path(saved))}) == count


def test_records_that_a_reader_left_in_the_pipe_are_kept(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Each answer was read by it or is in the spool."""
    server = start_mock("latency=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 400)
    reader = "import os, sys, time; time.sleep(1.5); sys.stdout.buffer.write(os.read(0, 3000))"
    command = " ".join(
        [*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "-j", "5", "--rps", "100", "-q", "-o", "-"]
    )

    done = subprocess.run(
        ["bash", "-c", f"{command} | {LLMBLAST[0]} -c '{reader}'"],
        cwd=tmp_path,
        env=unmeasured(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    saved = done.stderr.partition("to go on from there: --save ")[2].strip().rstrip(")")

    read = [line for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]
    lines = {record["line"] for record in [*map(orjson.loads, read), *records(Path(saved))]}
    assert len(lines) >= server.received - 5
