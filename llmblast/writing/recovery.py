"""Recovery: repair an output file after a crash or a power cut. The caller holds its lock.

A killed process leaves half a record at the end. A power cut also leaves runs of zero bytes: pages that the file system
had allocated but not written. A record has no zero byte and no newline, and always starts and ends in the same way, so
a few searches clear a whole block (1 GB in a second), and only suspicious lines are parsed.
"""

import os
import re
from collections.abc import Iterator
from itertools import islice

from llmblast.writing.rewriting import rewrite
from llmblast.writing.safe_json import is_json
from llmblast.writing.side_file import open_side_file

RECORD_START = b'{"key":"'
_OURS = re.compile(rb'\{"key":"[0-9a-f]{16}"')
_OUR_START = re.compile(rb'\{"key":"(?:[0-9a-f]{16}"|[0-9a-f]{0,16}\Z)')
"""A record, or the torn start of one."""
_MAX_FIRST_LINES = 100
_BLOCK_BYTES = 256 * 1024
_MAX_RECORD_BYTES = 64 * 1024 * 1024


def is_ours(fd: int) -> bool:
    """Return whether the file is empty or starts with a record of ours, whole or torn. The first line without zero
    bytes decides.
    """
    head = os.pread(fd, len(RECORD_START), 0)
    if not RECORD_START.startswith(head.partition(b"\0")[0]):
        return False
    for line in _lines_from_start(fd):
        if _OUR_START.match(line) or RECORD_START.startswith(line):
            return True
        if b"\0" not in line:
            return False
    return True


def has_record(fd: int) -> bool:
    """Return whether the file is empty or has a record of ours among its first lines."""
    lines = islice(_lines_from_start(fd), _MAX_FIRST_LINES)
    return os.fstat(fd).st_size == 0 or is_ours(fd) or any(_OURS.match(line) for line in lines)


def _lines_from_start(fd: int) -> Iterator[bytes]:
    """Yield all lines of the file; pieces of those that are too long for a record."""
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        while line := file.readline(_MAX_RECORD_BYTES):
            yield line


def repair(fd: int, path: str) -> list[str]:
    """Remove zeros at the end, repair the last line, move fragments of broken records to `path`.quarantine, and keep
    whole records between zeros. Return messages about that.

    Raises OSError; the file is unchanged then, or both files have the fragments.
    """
    notes = (_cut_zeros(fd, path), _mend_tail(fd, path), _quarantine(fd, path))
    return [note for note in notes if note]


def _cut_zeros(fd: int, path: str) -> str | None:
    size = end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        block = os.pread(fd, end - start, start).rstrip(b"\0")
        end = start + len(block)
        if block:
            break
    if end == size:
        return None
    os.ftruncate(fd, end)
    os.fsync(fd)
    return f"{path}: its last {size - end} bytes were zeros after a power cut and were removed"


def _mend_tail(fd: int, path: str) -> str | None:
    """Complete a last line that only lacks its newline, or move a torn one to `path`.torn."""
    tail = _last_line(fd)
    if not tail:
        return None
    if b"\0" in tail:
        os.write(fd, b"\n")  # now it is a line like any other, and `_quarantine` saves its whole records
        return None
    if _is_record(tail):
        os.write(fd, b"\n")
        os.fsync(fd)
        return f"{path}: the last record had no newline; it was added"
    _append_durably(f"{path}.torn", tail + b"\n")
    os.ftruncate(fd, os.fstat(fd).st_size - len(tail))
    os.fsync(fd)
    return f"{path}: the last record was incomplete; its {len(tail)} bytes were moved to {path}.torn"


def _quarantine(fd: int, path: str) -> str | None:
    broken = [line for block in _blocks_of_lines(fd) if _looks_odd(block) for line in _broken_lines(block)]
    if not broken:
        return None
    fragments = [piece for line in broken for piece in _pieces(line) if not _is_record(piece)]
    if fragments:
        _append_durably(f"{path}.quarantine", b"".join(piece + b"\n" for piece in fragments))
    rewrite(fd, path, _mended)
    where = f"{'its' if len(broken) == 1 else 'their'} fragments were moved to {path}.quarantine"
    return f"{path}: {_number(len(broken))} damaged; {where}, and lines without a record are sent again"


def _number(count: int) -> str:
    return "1 line was" if count == 1 else f"{count:,} lines were"


def _blocks_of_lines(fd: int) -> Iterator[bytes]:
    """Yield the whole file in blocks of whole lines."""
    parts: list[bytes] = []
    position = 0
    while block := os.pread(fd, _BLOCK_BYTES, position):
        position += len(block)
        end = block.rfind(b"\n") + 1
        if end == 0:
            parts.append(block)
            continue
        yield b"".join((*parts, block[:end]))
        parts = [block[end:]]


def _looks_odd(block: bytes) -> bool:
    """Return whether a line may be broken: it has a zero byte, a wrong start or end, or two starts."""
    lines = block.split(b"\n")
    lines.pop()
    if b"\0" in block or block.count(RECORD_START) != len(lines):
        return True
    return not all(line.startswith(RECORD_START) and line.endswith(b"}") for line in lines)


def _broken_lines(block: bytes) -> Iterator[bytes]:
    for line in block.split(b"\n")[:-1]:
        if _mended(line + b"\n") != line + b"\n":
            yield line


def _mended(line: bytes) -> bytes:
    """Return a line that is JSON or blank as it is; of any other line the whole records, each with a newline."""
    text = line.removesuffix(b"\n")
    if not text or (_looks_whole(text) and b"\0" not in text) or is_json(text):
        return line
    return b"".join(piece + b"\n" for piece in _pieces(text) if _is_record(piece))


def _pieces(line: bytes) -> list[bytes]:
    """Return the pieces of a line between zero bytes, which may have replaced newlines."""
    return [piece for piece in line.split(b"\0") if piece]


def _looks_whole(text: bytes) -> bool:
    return text.startswith(RECORD_START) and text.endswith(b"}") and text.count(RECORD_START) == 1


def _is_record(text: bytes) -> bool:
    return text.startswith(RECORD_START) and is_json(text)


def _last_line(fd: int) -> bytes:
    """Return the bytes behind the last newline."""
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


def _append_durably(path: str, data: bytes) -> None:
    with open_side_file(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
