"""Running and measuring: whole processes with their time, CPU and memory, and the files that they work on.

Whatever starts a measured process must be small: what it holds counts as that process's own peak. So files are made
and looked at in streams.
"""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Timer
from typing import IO, Any

from bench_table import FailedRunError

WORK = Path(".work/bench")
LLMBLAST = (sys.executable, "-P", "-m", "llmblast")
"""With -P, so that PYTHONPATH can name another tree than the folder that this runs in."""
PROMPT = "Summarise this paragraph in one sentence please, number {:07d}: The quick brown fox jumps over the lazy dog."
SAVE = WORK / "save.jsonl"
OUTPUTS = (SAVE, WORK / "errors.jsonl", WORK / "save.jsonl.settings")
LONGEST_S = 1800.0
"""No process takes longer: one that hangs must not hang the measurement."""
_FEW_LINES = 10
_DISK_BLOCK_BYTES = 1024 * 1024
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Usage:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str


@dataclass(frozen=True)
class Run:
    """One run of the client: what it took and what it told of itself."""

    usage: Usage
    summary: Mapping[str, Any]

    @property
    def lines(self) -> int:
        """How many it read."""
        return int(self.summary["lines"]["read"])

    @property
    def duration_s(self) -> float:
        """From its opened files to its closed ones, without the start of the process."""
        return float(self.summary["duration_s"])

    @property
    def per_s(self) -> float:
        """Lines a second, file to file."""
        return self.lines / self.duration_s


def measure(*command: str, environ: Mapping[str, str] | None = None, longest_s: float = LONGEST_S) -> Usage:
    """Runs a command to its end, and ends what it leaves behind. Raises FailedRunError unless it succeeds in time."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        with _held_sigterm() as let_in:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
            )
            watchdog = Timer(longest_s, _kill_group, (process,))
            watchdog.start()
            used = _wait(process, watchdog, let_in)
        wall_s = time.perf_counter() - start
        if process.returncode:
            is_late = wall_s >= longest_s
            end = f"did not end within {longest_s:g} s" if is_late else f"ended with {process.returncode}"
            raise FailedRunError(f"{_shortened(command)} {end}: {_last_line(errors) or _last_line(out) or 'no word'}")
        out.seek(0)
        return Usage(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, out.read().decode(errors="replace"))


@contextmanager
def _held_sigterm() -> Iterator[Callable[[], None]]:
    """Hold back a SIGTERM until the function is called: it would leave behind a process that has just been started."""
    held: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, _: held.append(number))

    def let_in() -> None:
        signal.signal(signal.SIGTERM, handler)
        while held:
            signal.raise_signal(held.pop())

    try:
        yield let_in
    finally:
        let_in()


def _wait(process: subprocess.Popen[bytes], watchdog: Timer, on_start: Callable[[], None]) -> resource.struct_rusage:
    """Wait for a process; resources are its own and those of its children that it waited for. Whatever interrupts the
    waiting, nothing of its group is left.
    """
    try:
        on_start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return used
    finally:
        watchdog.cancel()
        watchdog.join()
        _kill_group(process)
        process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _shortened(command: Sequence[str]) -> str:
    words = shlex.join(command)
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[:_SHOWN_CHARACTERS]} ..."


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    return next((line for line in reversed(file.read().decode(errors="replace").splitlines()) if line.strip()), "")


def write_prompts(count: int) -> Path:
    """A prompt file of `count` different lines, made once."""
    path = WORK / f"prompts-{count}.jsonl"
    if not path.exists():
        unfinished = path.with_suffix(".new")
        with unfinished.open("w") as file:
            for number in range(count):
                file.write(json.dumps({"id": f"row-{number}", "input": PROMPT.format(number)}) + "\n")
        unfinished.rename(path)
    return path


def write_chat_prompts(count: int) -> Path:
    """The prompts of `write_prompts` as bodies of chat requests, made once."""
    path = WORK / f"prompts-chat-{count}.jsonl"
    if not path.exists():
        unfinished = path.with_suffix(".new")
        with unfinished.open("w") as file:
            for number in range(count):
                message = {"role": "user", "content": PROMPT.format(number)}
                file.write(json.dumps({"model": "mock", "messages": [message]}) + "\n")
        unfinished.rename(path)
    return path


def run_llmblast(
    prompts: Path, url: str, *more: str, environ: Mapping[str, str] | None = None, resumes: bool = False
) -> Run:
    """One whole run, file to file, from the start unless it `resumes`. Raises FailedRunError, also for a lost line."""
    outputs = ("-o", str(SAVE), "-e", str(OUTPUTS[1]), "-q", "--json", *(() if resumes else ("--overwrite",)))
    command = (*LLMBLAST, "run", str(prompts), "-u", url, "-m", "mock", *outputs, *more)
    usage = measure(*command, environ=environ)
    run = Run(usage, json.loads(usage.stdout))
    with SAVE.open("rb") as file:
        records = sum(1 for _ in file)
    if records < run.lines or (records > run.lines and not resumes):
        raise FailedRunError(f"{run.lines} lines were read, but {records} records are there")
    return run


def idle_cpu_s(url: str, *more: str, environ: Mapping[str, str] | None = None) -> float:
    """The CPU time of starting and ending: that of a run of ten lines with the same flags, the median of three."""
    prompts = write_prompts(_FEW_LINES)
    return median(run_llmblast(prompts, url, *more, environ=environ).usage.cpu_s for _ in range(3))


def cpu_us(runs: Sequence[Run], idle_s: float) -> float:
    """CPU time a request, without that of starting and ending."""
    return median((run.usage.cpu_s - idle_s) / run.lines * 1e6 for run in runs)


def peak_mb(runs: Sequence[Run]) -> float:
    """The most memory that any of them had."""
    return max(run.usage.peak_mb for run in runs)


def check_open_files(in_flight: int) -> None:
    """Raises FailedRunError where a process may not open as many sockets as the case needs."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < in_flight + 100:
        raise FailedRunError(f"a process may open {most} files only: ulimit -Hn")


def disk_mb_per_s(size_bytes: int) -> float:
    """How fast the disk takes a file of that size, synced at its end, as `dd conv=fdatasync` writes it."""
    block = os.urandom(_DISK_BLOCK_BYTES)
    path = WORK / "disk.bin"
    start = time.perf_counter()
    try:
        with path.open("wb", buffering=0) as file:
            blocks = max(1, size_bytes // _DISK_BLOCK_BYTES)
            for _ in range(blocks):
                file.write(block)
            os.fsync(file.fileno())
        return blocks * _DISK_BLOCK_BYTES / 1e6 / (time.perf_counter() - start)
    finally:
        path.unlink()


def clean_up() -> None:
    """Takes the outputs away: some have gigabytes."""
    for path in OUTPUTS:
        path.unlink(missing_ok=True)
