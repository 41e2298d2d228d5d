"""Side files: small JSON objects beside an output, hints for the next run that nothing depends on."""

import contextlib
import os

import orjson

from llmblast.writing.rewriting import sync_directory_of


def read_side_file(path: str) -> dict[str, object] | None:
    """Return the JSON object in the file; None where it is missing or holds none."""
    try:
        with open(path, "rb") as file:
            kept = orjson.loads(file.read())
    except (OSError, orjson.JSONDecodeError):
        return None
    return kept if isinstance(kept, dict) else None


def write_side_file(path: str, content: dict[str, object]) -> None:
    """Replace the file durably, and whole at every moment; for its owner only, since a prompt may be private.

    Raises OSError.
    """
    new_path = f"{path}.new"
    try:
        with open(new_path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        os.rename(new_path, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new_path)
        raise
    sync_directory_of(path)
