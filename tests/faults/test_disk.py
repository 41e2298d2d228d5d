"""Disks that fill up, break or lose a file in the middle of a run: every received answer is in a file afterwards.

Faults of single calls are put in where Python calls the system, in the process that runs the command; limits, devices,
pipes and removed files are real.
"""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from llmblast.errors import OutputFailedError
from llmblast.mocking.server import MockServer, ScriptedReply
from llmblast.writing import OutputFile, Spool, Timing, Writer, render
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, write_prompts
from tests.processes import start_run
from tests.writing.writing_samples import a_success

Failing = Callable[..., "subprocess.CompletedProcess[str]"]

LINES = 120
FAIL = """
import os, sys
from llmblast.cli import main
from llmblast.writing import output_file

call, number, first, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
sys.argv[1:] = sys.argv[5:]
really, calls = {"write": os.write, "sync": output_file._sync_data}[call], []

def fail(fd, *data):
    if not os.readlink(f"/proc/self/fd/{fd}").endswith(name):
        return really(fd, *data)
    calls.append(fd)
    if len(calls) < first:
        return really(fd, *data)
    if len(calls) == first and data and len(data[0]) > 1:
        return really(fd, data[0][: len(data[0]) // 2])
    raise OSError(number, os.strerror(number))

if call == "write":
    os.write = fail
else:
    output_file._sync_data = fail
main()
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")


@pytest.fixture
def place(tmp_path: Path, environment: dict[str, str]) -> Path:
    """The system's temporary directory, for the commands of one test."""
    (place := tmp_path / "tmp").mkdir()
    environment["TMPDIR"] = str(place)
    return place


@pytest.fixture
def failing(tmp_path: Path, environment: dict[str, str]) -> Failing:
    """Runs the job with a call that fails from its n-th time on, for the file of that name."""

    def run(call: str, number: int, first: int, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", FAIL, call, str(number), str(first), name, "run", "prompts.jsonl", *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def run_with_little_room(
    tmp_path: Path, environment: dict[str, str], limit_bytes: int, *arguments: str
) -> "subprocess.Popen[str]":
    """A run none of whose files may grow beyond the limit, until somebody lifts it: a full disk in small."""
    code = (
        "import resource, sys; from llmblast.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, resource.RLIM_INFINITY)); main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "prompts.jsonl", *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """What the process tells, up to the line with these words."""
    told = ""
    assert process.stderr is not None
    while words not in told:
        line = process.stderr.readline()
        assert line, f"it ended without {words!r}: {told}"
        told += line
    return told


def numbers_in(paths: Iterable[Path]) -> Counter[int]:
    """Line numbers of all records; every line of every file must be whole."""
    return Counter(record["line"] for path in paths for record in records(path))


def outputs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "save.jsonl", tmp_path / "errors.jsonl") if path.exists()]


def assert_nothing_received_is_lost(tmp_path: Path, place: Path, server: MockServer, stderr: str) -> None:
    """Each request that was answered has one record, in its file or in a spool that a person is told of."""
    spools = list(place.glob("*.spool.jsonl"))
    held = numbers_in([*outputs(tmp_path), *spools])
    assert "Traceback" not in stderr
    assert held.total() == len(held) == server.received
    assert spools
    assert all(str(spool) in stderr for spool in spools)


def assert_the_next_run_completes(
    tmp_path: Path, place: Path, server: MockServer, llmblast: RunLlmblast, *arguments: str
) -> None:
    """It takes the spools in, sends the rest, and pays for nothing twice."""
    done = llmblast("run", "prompts.jsonl", "-u", server.url, *arguments)
    assert done.returncode in (0, 3), done.stderr
    assert "of an earlier run were added from" in done.stderr
    assert numbers_in(outputs(tmp_path)) == Counter(range(1, LINES + 1))
    assert server.received == LINES
    assert list(place.glob("*.spool.jsonl")) == []


@needs_proc
@pytest.mark.parametrize("name", ["save.jsonl", "errors.jsonl"])
@pytest.mark.parametrize(
    "first", [1, 3, *(pytest.param(first, marks=pytest.mark.long) for first in (2, 4, 5, 6, 7, 8))]
)
def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    tmp_path: Path, place: Path, start_mock: StartMock, llmblast: RunLlmblast, failing: Failing, first: int, name: str
) -> None:
    """Half of the batch is written, the rest and all that was in flight is spooled, the exit code is 74."""
    refusal = ScriptedReply(413, delay_s=0.03) if name == "errors.jsonl" else None
    server = start_mock("latency=0.03", script=lambda index, body: refusal)
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = failing("write", errno.ENOSPC, first, name, "-u", server.url, "-j", "10", "--disk-wait", "0")

    assert done.returncode == 74, done.stderr
    assert f"{name}: cannot be written: No space left on device" in done.stderr
    assert_nothing_received_is_lost(tmp_path, place, server, done.stderr)
    assert_the_next_run_completes(tmp_path, place, server, llmblast, "--retry-errors", "none")


@needs_proc
@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS, errno.EIO])
def test_whatever_a_write_fails_with_loses_nothing(
    tmp_path: Path, place: Path, start_mock: StartMock, llmblast: RunLlmblast, failing: Failing, number: int
) -> None:
    """Quota, a file system that went read-only, a broken device."""
    server = start_mock("latency=0.03")
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = failing("write", number, 2, "save.jsonl", "-u", server.url, "-j", "10", "--disk-wait", "0")

    assert done.returncode == 74, done.stderr
    assert f"cannot be written: {os.strerror(number)}" in done.stderr
    assert_nothing_received_is_lost(tmp_path, place, server, done.stderr)
    assert_the_next_run_completes(tmp_path, place, server, llmblast)


@needs_proc
@pytest.mark.parametrize("first", [1, 2])
def test_a_failed_sync_loses_nothing(
    tmp_path: Path, place: Path, start_mock: StartMock, llmblast: RunLlmblast, failing: Failing, first: int
) -> None:
    """What had not been synced before goes to the second place, and is no longer trusted in the first."""
    server = start_mock("latency=0.1")
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = failing("sync", errno.EIO, first, "save.jsonl", "-u", server.url, "-j", "6")

    assert done.returncode == 74, done.stderr
    assert "save.jsonl: cannot be synced to its device: Input/output error" in done.stderr
    assert_nothing_received_is_lost(tmp_path, place, server, done.stderr)
    assert_the_next_run_completes(tmp_path, place, server, llmblast)


@pytest.mark.parametrize("how", ["removed", "rotated"])
def test_a_file_that_is_taken_away_costs_nothing(
    tmp_path: Path, place: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, how: str
) -> None:
    """Noticed at the next sync; all that was in it comes back with the next run."""
    server = start_mock("latency=0.1")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "4", "--spool", str(place))
    while not (tmp_path / "save.jsonl").exists() or (tmp_path / "save.jsonl").stat().st_size == 0:
        assert process.poll() is None

    if how == "removed":
        (tmp_path / "save.jsonl").unlink()
    else:
        (tmp_path / "save.jsonl").rename(tmp_path / "save.jsonl.1")
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 74, stderr
    assert "save.jsonl: it was removed or replaced during the run" in stderr
    assert server.received < LINES
    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--spool", str(place))
    assert done.returncode == 0, done.stderr
    assert numbers_in([tmp_path / "save.jsonl"]) == Counter(range(1, LINES + 1))
    assert server.received == LINES


def test_room_that_somebody_makes_lets_the_run_go_on(
    tmp_path: Path, place: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Nothing is sent while the disk is full; then the run ends as if nothing had been."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", 600)
    process = run_with_little_room(tmp_path, environment, 5000, "-u", server.url, "-j", "5")
    told = read_until(process, "sending is paused until there is room, for 60 s at most")

    sent = server.received
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told += process.communicate(timeout=30)[1]

    assert process.returncode == 0, told
    assert sent < 300
    assert "there is room again; the run goes on" in told
    assert numbers_in(outputs(tmp_path)) == Counter(range(1, 601))
    assert list(place.iterdir()) == []


def test_a_signal_ends_the_wait_for_room(
    tmp_path: Path, place: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Then the second place takes what is there, where it is another disk: here it has room for ten records, too."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = run_with_little_room(tmp_path, environment, 5000, "-u", server.url, "-j", "1")
    read_until(process, "sending is paused until there is room")

    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=30)[1]

    assert process.returncode == 74, told
    assert_nothing_received_is_lost(tmp_path, place, server, told)
    assert_the_next_run_completes(tmp_path, place, server, llmblast)


def test_a_full_device_keeps_what_it_does_not_take(
    tmp_path: Path, place: Path, start_mock: StartMock, llmblast: RunLlmblast, environment: dict[str, str]
) -> None:
    """No later run reads a device; the records are in a file, and a person is told so."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-o", "/dev/full", "-j", "5", "--disk-wait", "0")

    assert done.returncode == 74, done.stderr
    assert "move this file if you need it, no later run reads it" in done.stderr
    assert_nothing_received_is_lost(tmp_path, place, server, done.stderr)


def test_a_reader_that_has_gone_leaves_no_answer_lost(
    tmp_path: Path, place: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """What nobody read any more was paid for all the same."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = subprocess.Popen(
        [*LLMBLAST, "run", "prompts.jsonl", "-o", "-", "-u", server.url, "-j", "5"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()

    assert process.stderr is not None
    told = process.stderr.read().decode()
    process.stderr.close()
    process.wait(timeout=30)

    assert process.returncode == 141, told
    assert "standard output: its reader has closed it" in told
    spooled = numbers_in(place.glob("stdout.*.spool.jsonl"))
    assert max(spooled.values()) == 1
    assert 0 < server.received - spooled.total() < 30


def test_a_spool_directory_must_be_there_from_the_start(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Not to be found out at night."""
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--spool", "nowhere")

    assert done.returncode == 2
    assert "--spool nowhere: is not a directory: create it, or name another" in done.stderr
    assert not (tmp_path / "save.jsonl").exists()


class Fails(OutputFile):
    """A file that takes half a write at its n-th one, and nothing from then on."""

    def __init__(self, path: Path, first: int) -> None:
        super().__init__(str(path))
        self.writes = 0
        self._first = first

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        self.writes += 1
        if self.writes < self._first:
            return super().append(data)
        taken = len(data) // 2 if self.writes == self._first else 0
        written, error = super().append(data[:taken])
        return written, error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def write_until_full(file: Fails, place: Path, count: int) -> None:
    """Writes so many records with a write for each of them."""
    writer = Writer(
        file,
        OutputFile("/dev/null"),
        echo=True,
        body="auto",
        notice=print,
        spool_directory=str(place),
        timing=Timing(gather_s=0, disk_wait_s=0, sync_after_s=3600),
    )
    for number in range(count):
        writer.put(a_success(number, "x" * 300))
        await writer.flush()
    with contextlib.suppress(OutputFailedError):
        await writer.close()


@pytest.mark.parametrize("first", range(1, 42))
def test_a_disk_may_fill_up_at_every_single_write(tmp_path: Path, first: int) -> None:
    """Save and spool together hold each record once, and so does the file of the next run."""
    (place := tmp_path / "place").mkdir()
    save = tmp_path / "save.jsonl"

    asyncio.run(write_until_full(Fails(save, first), place, 40))
    held = numbers_in([save, *place.iterdir()])
    output = OutputFile(str(save))
    Spool(output, str(place)).take_in(output)
    output.close()

    assert held == numbers_in([save]) == Counter(range(40))
    assert list(place.iterdir()) == []


def test_a_file_that_is_removed_while_it_is_full_leaves_whole_records(tmp_path: Path) -> None:
    """The half of a record that it took does not come along."""
    (place := tmp_path / "place").mkdir()
    file = Fails(tmp_path / "save.jsonl", 2)

    async def main() -> None:
        writer = Writer(
            file,
            OutputFile("/dev/null"),
            echo=True,
            body="auto",
            notice=print,
            spool_directory=str(place),
        )
        writer.put(a_success(0))
        await writer.flush()
        writer.put(a_success(1))
        await writer.flush()
        os.unlink(file.path)
        with pytest.raises(OutputFailedError, match="2 records are in"):
            await writer.close()

    asyncio.run(main())

    assert numbers_in([*place.iterdir(), *tmp_path.glob("*.spool.jsonl")]) == Counter([0, 1])


def test_starting_anew_takes_nothing_in(tmp_path: Path, place: Path, llmblast: RunLlmblast) -> None:
    """Old answers must not come back into a file that was emptied."""
    write_prompts(tmp_path / "prompts.jsonl", 2)
    output = OutputFile(str(tmp_path / "save.jsonl"))
    spooled, _ = Spool(output, str(place)).store(render(a_success(99)))
    spooled.close()
    output.close()

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--overwrite")

    assert done.returncode == 0, done.stderr
    assert numbers_in(outputs(tmp_path)) == Counter([1, 2])
    assert list(place.iterdir()) == []
