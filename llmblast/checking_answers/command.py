"""Command: a program of the user reads an answer on standard input and accepts it with exit code 0.

A few run at the same time, each for a limited time. What one prints on standard error is the reason. It runs in a
process group of its own, which is killed when the time is over or the run drops the answer.
"""

import asyncio
import os
import shutil
import signal
from contextlib import suppress

from llmblast.errors import UsageError
from llmblast.settings import Settings

TIMEOUT_S = 60.0
"""Time that one answer may take."""
MAX_REASON_BYTES = 2000
MAX_RUNNING = max(2, os.cpu_count() or 1)
MAX_WAITING = 64 + 4 * MAX_RUNNING
"""While more answers wait for the command, nothing is sent: each was paid for, and would be lost with the run."""
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
"""Exit codes of a shell that could not run a command (POSIX, "Exit Status for Commands")."""
_BLOCK_BYTES = 64 * 1024
_SHELL_CHARACTERS = frozenset("|&;<>()$`\\\"'*?[]#~=%!{}\n")
_BUILTINS = frozenset(
    (":", ".", "cd", "command", "eval", "exec", "exit", "export", "read", "set", "type", "ulimit", "umask")
)
"""Commands of the shell itself."""
_FLAG = "--expect-command"


class CommandBrokenError(Exception):
    """The command cannot be run: no answer is to blame. The message is for a person."""


class AnswerCommand:
    """The check of `--expect-command`."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        self.waiting = 0
        """Answers that wait for the command, or are being read by it."""

    @classmethod
    def of(cls, settings: Settings) -> "AnswerCommand | None":
        """Return the check. Raises UsageError where the command is just a name that no program has."""
        command = settings.expect_command
        if command is None:
            return None
        words = command.split()
        is_name = _SHELL_CHARACTERS.isdisjoint(command) and words[0] not in _BUILTINS
        if is_name and shutil.which(words[0]) is None:
            raise UsageError(f"{_FLAG}: there is no program {words[0]!r} that can be run: correct the command")
        return cls(command)

    @property
    def is_busy(self) -> bool:
        """Return whether too many answers wait."""
        return self.waiting >= MAX_WAITING

    async def find_problem(self, text: str) -> str | None:
        """Return why the command does not accept an answer; None where it does. Raises CommandBrokenError."""
        self.waiting += 1
        try:
            async with self._slots:
                return await self._run(text.encode("utf-8", "replace"))
        finally:
            self.waiting -= 1

    async def _run(self, data: bytes) -> str | None:
        try:
            process = await asyncio.create_subprocess_shell(
                self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,  # standard output may be that of the answers
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandBrokenError(f"{_FLAG}: cannot be started: {error.strerror}") from None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, reason = await asyncio.gather(_feed(process, data), _read_reason(process))
                code = await process.wait()
        except TimeoutError:
            return f"the command did not end within {TIMEOUT_S:g} s"
        finally:
            await _end(process)
        return _problem_of(code, reason)


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Write the answer. A command need not read it to its end."""
    stdin = process.stdin
    assert stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        if not stdin.is_closing():  # the command has ended already: uvloop would raise RuntimeError
            stdin.write(data)
            await stdin.drain()
    stdin.close()


async def _read_reason(process: asyncio.subprocess.Process) -> str:
    """Return the start of what the command prints on standard error, and drop the rest."""
    stderr = process.stderr
    assert stderr is not None
    printed = bytearray()
    while block := await stderr.read(_BLOCK_BYTES):
        printed += block[: MAX_REASON_BYTES - len(printed)]
    return " ".join(printed.decode("utf-8", "replace").split())


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process group of a command that has not ended, and wait for the process."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: a group of zombies on macOS
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _problem_of(code: int, reason: str) -> str | None:
    if code == 0:
        return None
    if code in (_NOT_EXECUTABLE, _NOT_FOUND):
        raise CommandBrokenError(f"{_FLAG}: cannot be run (exit code {code}): {reason or 'check the command'}")
    if reason:
        return reason
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"the command did not accept the answer: it {how}"
