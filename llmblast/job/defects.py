"""Defects: report an unexpected exception as one sentence for the user, and a file with details for developers.

Any part of llmblast may be the defective one, so this module uses only the standard library, and a report that fails
tells this in its sentence. Only the owner can read the file. Known secrets, and texts that look like a key, are removed
from the text.
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

from llmblast.endpoint_settings import EndpointSettings
from llmblast.fence import Fence
from llmblast.settings import Settings

SUFFIX = ".defect.txt"
MAX_FILE_BYTES = 256 * 1024
"""A longer file is overwritten instead of appended to."""
MAX_REPORTS = 20
"""Maximum of reports of a run: a defect may recur with every reply."""
MAX_SENTENCE = 300
MAX_VALUE = 200
MIN_SECRET = 8
_HIDDEN = "(hidden)"
_TELLING = ("auth", "key", "token", "secret", "cookie", "passw", "credential")
_LOOKS_SECRET = r"\bsk-[\w-]{8,}|(?<=Bearer )[^\s'\"]+|(?<=://)[^\s/@'\"]+@|(?<=\?)[^\s'\"]+"
"""Keys of OpenAI and Anthropic, credentials in headers and URLs, and queries of URLs."""
_PRIVATE = ("headers", "key_command", "key_env", "key_file", "proxy", "params", "system", "prompt")
"""Settings that may contain secrets or prompts; only the fact that they are set is shown."""


class Defects:
    """Report the defects of one run. `environ` contains secrets to hide; `tell` shows a message to the user."""

    def __init__(
        self,
        settings: Settings | None,
        environ: Mapping[str, str],
        command: str = "run",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.fence = Fence(self.report_advice)
        self.tell = tell or write_to_stderr
        self._secrets: Callable[[], Iterable[bytes]] = tuple
        self._progress: Callable[[], Mapping[str, object]] = dict
        self._settings = settings
        self._environ = environ
        self._command = command
        self._path = _details_path(settings)
        self._place: str | None = None
        """Path of the details; None until the first report."""
        self._reports = 0

    def on_run_built(
        self, secrets: Callable[[], Iterable[bytes]], progress: Callable[[], Mapping[str, object]]
    ) -> None:
        """Hide what `secrets` returns, too, and report the counters that `progress` returns by name."""
        self._secrets, self._progress = secrets, progress

    def report_advice(self, part: str, error: Exception) -> None:
        """Write the details of a defect in an optional part, and tell the user that the part is switched off."""
        place = self._write(f"a defect in {part}; it was switched off, and the run went on", error)
        sentence = f"a defect in {part}: {self._explain(error)}; it is switched off and the run goes on; {place}"
        with suppress(Exception):  # `tell` may be the defective part
            self.tell(f"llmblast: {sentence}")

    def report(self, error: BaseException) -> str:
        """Write the details of a defect that ends the run or the command, and return a sentence about it."""
        place = self._write("a defect that ended it", error)
        return f"a defect in llmblast: {self._explain(error)}; {place}"

    def _explain(self, error: BaseException) -> str:
        """Return the type, message and source line of an error in one printable line."""
        with suppress(Exception):
            text = traceback.format_exception_only(error)[-1].strip()
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "llmblast" in frame.filename]
            if ours:
                text = f"{text[:MAX_SENTENCE]} ({Path(ours[-1].filename).name}, line {ours[-1].lineno})"
            return _printable(self._redact(text))
        return type(error).__name__

    def _write(self, what: str, error: BaseException) -> str:
        """Write the details; return the part of the sentence that tells where they are."""
        self._reports += 1
        try:
            if self._reports <= MAX_REPORTS:
                self._place = _append(self._path, self._redact(self._details(what, error)), self._place)
        except Exception as problem:  # noqa: BLE001 -- the report may be the defective part
            return f"its details could not be written: {_printable(str(problem))}"
        return f"details: {_printable(str(self._place))}"

    def _details(self, what: str, error: BaseException) -> str:
        lines = [
            f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: llmblast {self._command}: {what}",
            f"llmblast {version('llmblast')}, Python {platform.python_version()}, {platform.platform()}",
            *(f"setting {name} = {value}" for name, value in _shown_settings(self._settings)),
        ]
        with suppress(Exception):
            lines += [f"so far {name} = {value}" for name, value in self._progress().items()]
        return "\n".join([*lines, *traceback.format_exception(error)]) + "\n"

    def _redact(self, text: str) -> str:
        telling = (value for name, value in self._environ.items() if any(part in name.lower() for part in _TELLING))
        secrets = {word for value in telling for word in (value, *value.split()) if len(word) >= MIN_SECRET}
        secrets.update(secret.decode(errors="replace") for secret in self._secrets())
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return re.sub(_LOOKS_SECRET, _HIDDEN, text)


class LoggedDefects(Defects):
    """Report the defects of a run without files: the details go where its messages go."""

    def _write(self, what: str, error: BaseException) -> str:
        try:
            self.tell(self._redact(self._details(what, error)))
        except Exception as problem:  # noqa: BLE001 -- the report may be the defective part
            return f"its details could not be logged: {_printable(str(problem))}"
        return "the log has the details"


def write_to_stderr(text: str) -> None:
    """Write a message for the user, if there is a standard error."""
    with suppress(OSError):  # the terminal may be closed; the run goes on
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _details_path(settings: Settings | None) -> str:
    """Return a path beside the output, if this is or will be a file, else one in the current directory."""
    with suppress(OSError, ValueError):
        if settings is not None and _is_file(settings.save):
            return settings.save + SUFFIX
    return f"llmblast{SUFFIX}"


def _is_file(path: str) -> bool:
    if path == "-" or path.startswith("/dev/"):
        return False
    return not os.path.exists(path) or stat.S_ISREG(os.stat(path).st_mode)


def _append(path: str, text: str, place: str | None) -> str:
    """Append to `place`, the file of earlier reports, else to `path`, else to a temporary file; return the path."""
    data = text.encode(errors="backslashreplace")
    with suppress(OSError, ValueError):
        _write_to(_open(place or path), data)
        return place or path
    fd, made = tempfile.mkstemp(SUFFIX, "llmblast.")
    _write_to(fd, data)
    return made


def _open(path: str) -> int:
    """Open a regular file of this user. Raises OSError for others: a link could lead to a file of another program."""
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
