"""Progress mode: draw no bar where answers may appear on the same terminal, since each would overwrite the other.

A bar is redrawn several times a second. Where answers go to a pipe, its reader may print them on the same terminal, so
progress is whole lines; where they go to the terminal itself, they are the progress.
"""

import os
import stat
from enum import Enum, auto
from typing import TextIO

from llmblast.pipes import STDOUT, status_of
from llmblast.settings import Settings
from llmblast.watching import Mode


class _Kind(Enum):
    """Kind of place that an output goes to."""

    FILE = auto()
    TERMINAL = auto()
    PIPE = auto()


def progress_mode(settings: Settings, stderr: TextIO, stdout_fd: int = 1) -> Mode:
    """Return the mode of the settings; for `auto` the mode that keeps answers readable."""
    if settings.progress != "auto":
        return settings.progress
    if settings.verbose or not stderr.isatty():
        return "plain"
    kinds = {_kind(path, stdout_fd) for path in (settings.save, settings.errors_path)}
    if _Kind.TERMINAL in kinds:
        return "none"
    return "plain" if _Kind.PIPE in kinds else "auto"


def _kind(path: str, stdout_fd: int) -> _Kind:
    """Return the kind of place that an output goes to: a file, where it does not exist yet or is closed."""
    try:
        status = os.fstat(stdout_fd) if path == STDOUT else status_of(path)
        null_device = os.stat(os.devnull).st_rdev
    except (OSError, ValueError):
        return _Kind.FILE
    if stat.S_ISREG(status.st_mode) or status.st_rdev == null_device:
        return _Kind.FILE
    return _Kind.TERMINAL if stat.S_ISCHR(status.st_mode) else _Kind.PIPE
