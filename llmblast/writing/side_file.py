"""Side files: small files beside an output, with hints for the next run. Nothing depends on them.

Other users may write in the folder of an output: a link with the name of a side file is never followed, and a pipe is
never waited for.
"""

import contextlib
import errno
import os
import stat
from typing import IO, Any

import orjson

from llmblast.errors import OutputBlockedError
from llmblast.writing.rewriting import sync_directory_of

_ONLY_FILES = os.O_NOFOLLOW | os.O_NONBLOCK


def open_side_file(path: str, mode: str) -> IO[Any]:
    """Open a regular file, never through a link; a new one is for its owner only. Raises OSError for all else."""
    file = open(path, mode, opener=_open_only_files)  # noqa: SIM115 -- the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise FileExistsError(errno.EEXIST, "it is a pipe or device", path)


def _open_only_files(path: str, flags: int) -> int:
    return os.open(path, flags | _ONLY_FILES, 0o600)


def is_own_file(path: str) -> bool:
    """Return whether a path is a file of this user, and no link: others may write to its directory, too."""
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def check_side_file(path: str) -> None:
    """Raise OutputBlockedError if a pipe, a socket or a device has the name of a side file."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OutputBlockedError(
                f"{path}: is a pipe or device, but llmblast needs a file there: remove it, or choose another "
                "output with --save"
            )


def read_side_file(path: str) -> dict[str, object] | None:
    """Return the JSON object in the file; None where it is missing, is a link or holds none."""
    try:
        with open_side_file(path, "rb") as file:
            kept = orjson.loads(file.read())
    except (OSError, orjson.JSONDecodeError):
        return None
    return kept if isinstance(kept, dict) else None


def write_side_file(path: str, content: dict[str, object]) -> None:
    """Replace the file durably and in one step, readable only by its owner, since a prompt may be private.

    Raises OSError.
    """
    new_path = f"{path}.new"
    try:
        with open_side_file(new_path, "wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        os.rename(new_path, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new_path)
        raise
    sync_directory_of(path)
