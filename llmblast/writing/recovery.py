"""What a crash may have left at the end of an output file, and how it is put right. The caller holds the lock."""

import os

import orjson

RECORD_START = b'{"key":"'
_BLOCK_BYTES = 64 * 1024


def is_ours(fd: int) -> bool:
    """Whether the file is empty or starts as our records do, be it with the torn beginning of one."""
    head = os.pread(fd, len(RECORD_START), 0)
    return RECORD_START.startswith(head)


def repair_tail(fd: int, path: str) -> str | None:
    """Completes a last line that only lacks its newline; moves a torn one to `path`.torn and cuts it off.

    Returns what was done, for the log. Raises OSError; the file is then as it was, or the torn part is in both files.
    """
    tail = _last_line(fd)
    if not tail:
        return None
    if _is_whole(tail):
        os.write(fd, b"\n")
        os.fsync(fd)
        return f"{path}: the last record lacked its newline, which was added."
    _append_durably(f"{path}.torn", tail + b"\n")
    os.ftruncate(fd, os.fstat(fd).st_size - len(tail))
    os.fsync(fd)
    return f"{path}: the last record was torn; its {len(tail)} bytes were moved to {path}.torn."


def _last_line(fd: int) -> bytes:
    """What follows the last newline."""
    end = os.fstat(fd).st_size
    parts: list[bytes] = []
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        block = os.pread(fd, end - start, start)
        newline = block.rfind(b"\n")
        parts.append(block[newline + 1 :])
        if newline >= 0:
            break
        end = start
    return b"".join(reversed(parts))


def _is_whole(tail: bytes) -> bool:
    if not tail.startswith(RECORD_START):
        return False
    try:
        orjson.loads(tail)
    except orjson.JSONDecodeError:
        return False
    return True


def _append_durably(path: str, data: bytes) -> None:
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
