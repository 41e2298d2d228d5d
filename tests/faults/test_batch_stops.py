"""Runs through a batch API that end by a signal or a full disk: the next run goes on, and nothing is paid twice."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunLlmblast, StartMock
from tests.faults.batch_checker import complaints, ledger_events, write_batch_lines
from tests.processes import let_run

LINES = 100
NOTES = 8
"""In the journal of a run with one batch: from packed to done."""
PACKED, STARTED, ENDED = 1, 5, 6
_LITTLE_ROOM = """
import resource, sys
from llmblast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")


class BatchRun:
    """A run through the batch API of a mock, in a folder of its own, and the same command again."""

    def __init__(self, folder: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast) -> None:
        self.ledger = folder / "ledger.jsonl"
        self._folder, self._llmblast = folder, llmblast
        self._environment = {**environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        server = start_mock(f"latency=0&batch_delay=0.3&ledger={self.ledger}")
        self._arguments = ("run", "prompts.jsonl", "-u", server.url, "--defer", "batch", "--disk-wait", "0")
        write_batch_lines(folder / "prompts.jsonl", LINES // 2, copies=2)

    def start(self, *program: str, command: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Run it, or another command, in a Python program."""
        return subprocess.Popen(
            [sys.executable, *program, *(command or self._arguments)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def drive(self, moment: str, number: int) -> tuple[int, str]:
        """Let something happen at that note; return the exit code and the messages."""
        process = self.start(str(ROOT / "tests/faults/batch_driver.py"), moment, str(number))
        _, told = process.communicate(timeout=60)
        return process.returncode, told

    def assert_the_next_one_completes(self) -> None:
        done = self._llmblast(*self._arguments)
        assert done.returncode == 0, done.stderr
        assert complaints(self._folder, self.ledger) == []
        assert len(ledger_events(self.ledger, "batch_started")) == 1


@pytest.fixture
def batch_run(tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast) -> BatchRun:
    return BatchRun(tmp_path, environment, start_mock, llmblast)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(
    ("note", "words"),
    [
        (PACKED, "1 batch with 100 lines is not started yet: the same command goes on"),
        (STARTED, "1 batch at the provider with 100 lines goes on: the same command collects the answers"),
        (ENDED, "lines left to collect has ended: the same command collects the rest"),
    ],
)
def test_a_signal_tells_what_becomes_of_the_batches(
    batch_run: BatchRun, name: str, code: int, note: int, words: str
) -> None:
    returncode, told = batch_run.drive(name, note)

    assert (returncode, words in told) == (code, True), told
    batch_run.assert_the_next_one_completes()


@needs_proc
@pytest.mark.parametrize("number", range(1, NOTES + 1))
def test_a_journal_without_room_stops_the_run(batch_run: BatchRun, number: int) -> None:
    returncode, told = batch_run.drive("full", number)

    assert returncode == 74, told
    assert "save.jsonl.batches: cannot be written: No space left on device: solve that and run it again" in told
    assert "Traceback" not in told
    batch_run.assert_the_next_one_completes()


@needs_proc
def test_a_run_names_the_batch_whose_next_step_could_not_be_noted(batch_run: BatchRun) -> None:
    _, told = batch_run.drive("full", ENDED)

    assert "1 batch at the provider with 100 lines goes on: the same command collects the answers" in told


@pytest.mark.parametrize("size_bytes", [100, 5000])
def test_files_of_a_batch_without_room_stop_the_run(batch_run: BatchRun, size_bytes: int) -> None:
    """Nothing was uploaded: the next run reads the lines again."""
    process = batch_run.start("-c", _LITTLE_ROOM, str(size_bytes))
    _, told = process.communicate(timeout=60)

    assert process.returncode == 74, told
    assert "save.jsonl.batches: cannot be written: File too large: solve that and run it again" in told
    assert "Traceback" not in told
    batch_run.assert_the_next_one_completes()


def test_a_start_that_cannot_note_an_end_says_so(batch_run: BatchRun) -> None:
    """All records were there when the run before was killed."""
    batch_run.drive("before", NOTES)

    process = batch_run.start("-c", _LITTLE_ROOM, "200")
    _, told = process.communicate(timeout=60)

    assert process.returncode == 73, told
    assert "save.jsonl.batches: cannot be written: File too large: solve that and run it again" in told
    batch_run.assert_the_next_one_completes()


def test_a_batch_whose_cancellation_cannot_be_noted_goes_on(batch_run: BatchRun) -> None:
    batch_run.drive("after", PACKED)

    process = batch_run.start("-c", _LITTLE_ROOM, "200", command=("batches", "cancel"))
    _, told = process.communicate(timeout=60)

    assert process.returncode == 74, told
    assert "save.jsonl.batches: cannot be written: File too large: solve that and run it again" in told
    batch_run.assert_the_next_one_completes()


def test_a_batch_counts_as_collected_only_when_its_records_are_on_disk(batch_run: BatchRun) -> None:
    """No place has room for them, and the run is killed: they are read from the provider again."""
    process = batch_run.start("-c", _LITTLE_ROOM, "20000")
    assert process.stderr is not None
    told = ""
    while "no other place takes its records" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    let_run(process, 0.5)
    process.kill()
    process.communicate()

    batch_run.assert_the_next_one_completes()
