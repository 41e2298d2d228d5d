"""Defects: what a person, and whoever mends the defect, gets to know of it: one sentence, and a file with the details.

Whatever is called here may be the part that is broken, so this module uses nothing but the standard library, and a
report that fails itself says so in its sentence. The file is for its owner only. It has no secrets: known ones are
taken out of the whole text, and so is what looks like a key.
"""

import os
import platform
import re
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from llmblast.fence import Fence
from llmblast.settings import EndpointSettings, Settings

SUFFIX = ".defect.txt"
MAX_FILE_BYTES = 256 * 1024
"""A longer file is started anew instead of appended to."""
MAX_REPORTS = 20
"""A defect may happen again with every reply."""
MAX_SENTENCE = 300
MAX_VALUE = 200
MIN_SECRET = 8
_HIDDEN = "(hidden)"
_TELLING = ("auth", "key", "token", "secret", "cookie", "passw", "credential")
_LOOKS_SECRET = r"\bsk-[\w-]{8,}|(?<=Bearer )[^\s'\"]+|(?<=://)[^\s/@'\"]+@|(?<=\?)[^\s'\"]+"
"""Keys as OpenAI and Anthropic name them, credentials in headers and URLs, and queries of URLs."""
_PRIVATE = ("headers", "key_command", "key_env", "key_file", "proxy", "params", "system", "prompt")
"""Settings that may hold secrets, or what people ask for; whether they are set is shown."""


class Defects:
    """Reports the defects of one run. `environ` holds secrets that must not be shown, `secrets` returns further ones.

    `progress` returns what the run had done, by name. `tell` gets what a person should know while the run is on.
    """

    def __init__(
        self,
        settings: Settings | None,
        environ: Mapping[str, str],
        command: str = "run",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.fence = Fence(self.report_advice)
        self.tell = tell or _write_to_stderr
        self.secrets: Callable[[], Iterable[bytes]] = tuple
        self.progress: Callable[[], Mapping[str, object]] = dict
        self._settings = settings
        self._environ = environ
        self._command = command
        self._path = _details_path(settings)
        self._place: str | None = None
        """Where the details are; None while none are written."""
        self._reports = 0

    def report_advice(self, part: str, error: Exception) -> None:
        """Write the details of a defect in a part that only advises, and tell a person."""
        place = self._write(f"a defect in {part}; it was switched off, and the run went on", error)
        sentence = f"a defect in {part}: {self._explain(error)}; it is switched off and the run goes on; {place}"
        with suppress(Exception):  # what tells it may be what is broken
            self.tell(f"llmblast: {sentence}")

    def report(self, error: BaseException) -> str:
        """Write the details of a defect that ends the run or the command, and return a sentence about it."""
        place = self._write("a defect that ended it", error)
        return f"a defect in llmblast: {self._explain(error)}; {place}"

    def _explain(self, error: BaseException) -> str:
        """Return the error's type and message, and the place in llmblast, in one printable line."""
        with suppress(Exception):
            text = traceback.format_exception_only(error)[-1].strip()
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "llmblast" in frame.filename]
            if ours:
                text = f"{text[:MAX_SENTENCE]} ({Path(ours[-1].filename).name}, line {ours[-1].lineno})"
            return _printable(self._redact(text))
        return type(error).__name__

    def _write(self, what: str, error: BaseException) -> str:
        """Write the details; return the part of a sentence that says where they are."""
        self._reports += 1
        try:
            if self._reports <= MAX_REPORTS:
                self._place = _append(self._path, self._redact(self._details(what, error)), self._place)
        except Exception as problem:  # noqa: BLE001 -- the report itself may be what is broken
            return f"its details could not be written: {_printable(str(problem))}"
        return f"details: {_printable(str(self._place))}"

    def _details(self, what: str, error: BaseException) -> str:
        lines = [
            f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: llmblast {self._command}: {what}",
            f"llmblast {version('llmblast')}, Python {platform.python_version()}, {platform.platform()}",
            *(f"setting {name} = {value}" for name, value in _shown_settings(self._settings)),
        ]
        with suppress(Exception):
            lines += [f"so far {name} = {value}" for name, value in self.progress().items()]
        return "\n".join([*lines, *traceback.format_exception(error)]) + "\n"

    def _redact(self, text: str) -> str:
        telling = (value for name, value in self._environ.items() if any(part in name.lower() for part in _TELLING))
        secrets = {word for value in telling for word in (value, *value.split()) if len(word) >= MIN_SECRET}
        secrets.update(secret.decode(errors="replace") for secret in self.secrets())
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return re.sub(_LOOKS_SECRET, _HIDDEN, text)


class LoggedDefects(Defects):
    """Reports the defects of a run that writes no files: the details go where its messages go."""

    def _write(self, what: str, error: BaseException) -> str:
        try:
            self.tell(self._redact(self._details(what, error)))
        except Exception as problem:  # noqa: BLE001 -- the report itself may be what is broken
            return f"its details could not be logged: {_printable(str(problem))}"
        return "the log has the details"


def _write_to_stderr(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone; the files are what counts
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _details_path(settings: Settings | None) -> str:
    """Beside the output where that is a file or will be one, else in the current directory."""
    with suppress(OSError, ValueError):
        if settings is not None and _is_file(settings.save):
            return settings.save + SUFFIX
    return f"llmblast{SUFFIX}"


def _is_file(path: str) -> bool:
    if path == "-" or path.startswith("/dev/"):
        return False
    return not os.path.exists(path) or stat.S_ISREG(os.stat(path).st_mode)


def _append(path: str, text: str, place: str | None) -> str:
    """Append to the file of this run's reports, else to `path`, else to a new temporary file. Return its path."""
    data = text.encode(errors="backslashreplace")
    with suppress(OSError, ValueError):
        _write_to(_open(place or path), data)
        return place or path
    fd, made = tempfile.mkstemp(SUFFIX, "llmblast.")
    _write_to(fd, data)
    return made


def _open(path: str) -> int:
    """Open a regular file of ours. What is no such file raises OSError: a link may lead to what must not be changed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
            raise FileExistsError(path)
        os.fchmod(fd, 0o600)
        if status.st_size > MAX_FILE_BYTES:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_to(fd: int, data: bytes) -> None:
    with open(fd, "wb") as file:
        file.write(data[:MAX_FILE_BYTES])
        file.write(b"\n")


def _shown_settings(settings: Settings | None) -> Iterator[tuple[str, object]]:
    if settings is None:
        return
    yield from _set_values(settings, "")
    for endpoint in settings.endpoints:
        yield from _set_values(endpoint, f"{endpoint.name}: ")


def _set_values(settings: Settings | EndpointSettings, prefix: str) -> Iterator[tuple[str, object]]:
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if value == entry.default or entry.name == "endpoints" or value in ({}, None):
            continue
        yield prefix + entry.name, _HIDDEN if entry.name in _PRIVATE else repr(value)[:MAX_VALUE]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[: 2 * MAX_SENTENCE]
