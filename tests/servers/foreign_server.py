"""A server of `.work/servers` in a process of its own, and what its log says of the requests that it had."""

import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Self, TypeVar

from tests.conftest import ROOT

BIN = ROOT / ".work/servers/bin"
MAX_START_S = 90.0
MAX_LOG_DELAY_S = 20.0
Found = TypeVar("Found")
_ACCESS = re.compile(r'"POST (\S+) HTTP/1\.1" (\d{3})')
"""A line of uvicorn's access log."""


class ForeignServer:
    """Runs `command`, whose first word is a program of `.work/servers`, until the end of the `with` block."""

    def __init__(self, *command: str, is_up: str, address: str, environ: Mapping[str, str] | None = None) -> None:
        """Two patterns: `is_up` for the line that says so, and `address`, whose group is the URL."""
        if not (BIN / command[0]).exists():
            raise RuntimeError("the servers are not installed: run scripts/servers")
        self._command = (str(BIN / command[0]), *command[1:])
        self._environ = {**_plain_environment(), **(environ or {})}
        self._is_up, self._address = is_up, address
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self._wait_until(lambda: self._found(self._is_up), MAX_START_S)
            self.url = self._found(self._address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join()
        self._process.wait()

    def forget(self) -> None:
        """Drop the log so far: only later requests count."""
        with self._changed:
            self._lines.clear()

    def statuses(self, count: int, path: str = "/v1/chat/completions") -> Counter[str]:
        """Return how often each status is in the access log for `path`, once `count` answers with 200 are."""
        found: Counter[str] = Counter()

        def is_complete() -> bool:
            found.clear()
            found.update(match[2] for line in self._lines if (match := _ACCESS.search(line)) and match[1] == path)
            return found["200"] >= count

        self._wait_until(is_complete, MAX_LOG_DELAY_S)
        return found

    def count(self, pattern: str, at_least: int) -> int:
        """Return how many lines of the log have a match of `pattern`, once that many have."""
        counted = [0]

        def is_complete() -> bool:
            counted[0] = sum(re.search(pattern, line) is not None for line in self._lines)
            return counted[0] >= at_least

        self._wait_until(is_complete, MAX_LOG_DELAY_S)
        return counted[0]

    def _found(self, pattern: str) -> str:
        matches = (re.search(pattern, line) for line in self._lines)
        return next((match[match.re.groups] for match in matches if match), "")

    def _wait_until(self, look: Callable[[], Found], timeout_s: float) -> Found:
        """Return what `look` finds in the log; it is asked again at each new line."""
        with self._changed:
            self._changed.wait_for(lambda: bool(look()) or self._has_ended, timeout_s)
            found = look()
            if not found:
                raise AssertionError("the server's log does not say it:\n" + "\n".join(self._lines[-40:]))
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.rstrip())
                self._changed.notify_all()
        self._process.stdout.close()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()


def _plain_environment() -> dict[str, str]:
    """Return an environment without coverage, proxies and settings for Python's packages of these tests."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "OPENAI_", "PYTHON"))
    }
    return {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
