"""Runs in processes of their own, and how to wait for what they do without a sleep."""

import subprocess
import sys
from pathlib import Path
from typing import IO

from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, unmeasured

Process = subprocess.Popen[str]

_MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def start_run(
    tmp_path: Path, environment: dict[str, str], *arguments: str, stdin: int | IO[str] = subprocess.DEVNULL
) -> Process:
    """`llmblast run` with these arguments; its standard error is a pipe, its standard output is nobody's."""
    return subprocess.Popen(
        [*LLMBLAST, "run", *arguments],
        cwd=tmp_path,
        env=unmeasured(environment),
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def let_run(process: Process, seconds: float) -> None:
    """Goes on after so long, or at once when the process ends."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def wait_for_requests(server: MockServer, count: int, process: Process) -> None:
    """Goes on when the server has received so many; the process must still be running then."""
    while server.received < count:
        assert process.poll() is None, "the run was over too early"
        let_run(process, 0.005)


def is_running(pid: str) -> bool:
    """Whether it is more than a zombie, which waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_measured(tmp_path: Path, environment: dict[str, str], *arguments: str) -> tuple[int, int]:
    """Runs `prompts.jsonl`: the exit code, and the most memory that the process had, in bytes.

    A small process starts it: what whoever starts a process holds counts as the process's own.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *LLMBLAST, "run", "prompts.jsonl", "-q", *arguments],
        cwd=tmp_path,
        env=unmeasured(environment),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    exit_code, peak_kib = map(int, done.stdout.split())
    return exit_code, peak_kib * 1024
