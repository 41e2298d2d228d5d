"""Timeline: write a series for plots, one line of JSON per tick with the totals so far.

A tick writes a few hundred bytes and flushes them, on the event loop: they go into the kernel's page cache, which takes
microseconds, and a thread would cost more than it saves. Nothing is synced: a plot may lose its last second in a crash.
"""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson

from llmblast.errors import OutputBlockedError
from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.rate_meter import Clock
from llmblast.watching.sanitize import sanitize_text

_HEAD_BYTES = 64
_OUR_HEAD = re.compile(rb'\{"t":[\d.]+,"time":"')
_MAX_PATH_LENGTH = 4000
_NO_DIRECTORY = "its directory does not exist: create it or name another file"
_FIXES: Mapping[type[OSError], str] = {
    FileNotFoundError: _NO_DIRECTORY,
    NotADirectoryError: _NO_DIRECTORY,
    IsADirectoryError: "is a directory: name a file in it",
    PermissionError: "permission denied: allow it or name another file",
    BlockingIOError: "another run or another output of this one is writing to it: name another file",
}


class Timeline:
    """Write the file of `--timeline`, emptied at the start; a file with other content is not accepted.

    Each line has the totals since the start of the run, not rates: differences between lines are the reader's, over
    whatever window a plot needs. `t` is in seconds since this object was made, `time` is RFC 3339 in UTC, to the
    millisecond. `clock` gives monotonic seconds, `wall_clock` seconds since 1970. A last `tick` before `close` records
    how the run ended.

    A run outlives its timeline: a file that cannot be written to any more ends it, perhaps within a line, and `failure`
    says why. Raises OutputBlockedError when the file cannot be opened, is in use or holds something else.
    """

    def __init__(self, path: str, counters: Counters, clock: Clock, wall_clock: Callable[[], float]) -> None:
        self.failure: str | None = None
        self._name = f"--timeline {sanitize_text(path, _MAX_PATH_LENGTH)}"
        self._counters = counters
        self._clock = clock
        self._wall_clock = wall_clock
        self._file: BinaryIO | None = self._open(path)
        self._start_s = clock()

    def tick(self) -> None:
        """Write the present totals; do nothing once the timeline has ended."""
        if self._file is None:
            return
        try:
            self._file.write(self._line())
            self._file.flush()
        except OSError as error:
            # Closing tries to write the rest again; the first failure is the one to report.
            self.close()
            self._fail(error)

    def close(self) -> None:
        """Close the file. May be called again."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError as error:
            self._fail(error)

    def _line(self) -> bytes:
        counters = self._counters
        values = {
            "t": round(self._clock() - self._start_s, 3),
            "time": _rfc3339(self._wall_clock()),
            "sent": counters.sent,
            "done": counters.done,
            "succeeded": counters.succeeded,
            "failed": counters.failed,
            "retries": counters.retries,
            "hedged": counters.hedged,
            "rate_limited": counters.rate_limited,
            "tokens": counters.tokens,
            "in_flight": counters.in_flight,
            "queued": counters.queued,
            "endpoints": [_endpoint_values(endpoint) for endpoint in counters.endpoints],
        }
        return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)

    def _fail(self, error: OSError) -> None:
        self.failure = f"{self._name}: ended early: {error.strerror}"

    def _open(self, path: str) -> BinaryIO:
        try:
            # Non-blocking: a pipe without a reader is an error at once, and one whose reader does not keep up ends the
            # timeline rather than holding up the run. A regular file does not care.
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    self._empty(fd, path)
            except BaseException:
                os.close(fd)
                raise
        except ValueError as error:
            raise OutputBlockedError(f"{self._name}: is not a file name: {error}: name another file") from None
        except OSError as error:
            fix = _FIXES.get(type(error), f"cannot be written to: {error.strerror}: name another file")
            raise OutputBlockedError(f"{self._name}: {fix}") from None
        return open(fd, "wb")

    def _empty(self, fd: int, path: str) -> None:
        """Raise an error for a file that is no timeline: it may hold prompts or answers, named by mistake."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head and not _OUR_HEAD.match(head):
            raise OutputBlockedError(f"{self._name}: is not a timeline: name another file")
        os.ftruncate(fd, 0)


def _endpoint_values(endpoint: EndpointCounters) -> dict[str, object]:
    return {
        "name": sanitize_text(endpoint.name),
        "sent": endpoint.sent,
        "succeeded": endpoint.succeeded,
        "errors": endpoint.errors,
        "rate_limited": endpoint.rate_limited,
        "tokens": endpoint.tokens,
        "in_flight": endpoint.in_flight,
        "state": sanitize_text(endpoint.state),
    }


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
