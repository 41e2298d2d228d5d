"""Merging: add the records of other files of one output to it, each once."""

import re
from collections.abc import Iterable, Iterator, Sequence

from llmblast.errors import OutputBlockedError
from llmblast.writing.output_file import OutputFile
from llmblast.writing.recovery import RECORD_START

_IDENTITY = re.compile(
    re.escape(RECORD_START) + rb'.{16}","line":(\d+)(?:,"repeat":\d+)?(?:,"file":"(?:[^"\\]|\\.)*")?', re.DOTALL
)
_BATCH_BYTES = 256 * 1024
_FILE_BITS = 16
_OFFSET_BITS = 48


def append_missing(output: OutputFile, others: Sequence[OutputFile], *, by_line: bool = False) -> int:
    """Append the records of `others` that the output does not have, and sync them. Return their number.

    `by_line` puts them in the order of their lines. Blocks. Raises OutputBlockedError, and changes nothing then.
    """
    missing = {_identity(record) for other in others for record in other.lines()}
    missing.difference_update(_identity(record) for record in output.lines())
    records = _in_line_order(others) if by_line else (record for other in others for record in other.lines())
    wanted = (record for record in records if _take(missing, _identity(record)))
    size_before = output.size_bytes
    count = 0
    try:
        for batch in batches_of(wanted):
            append(output, batch)
            count += batch.count(b"\n")
        output.sync()
    except OSError as error:
        output.take_back(output.size_bytes - size_before)
        raise OutputBlockedError(
            f"{output.name}: cannot add the records that wait in {' and '.join(other.name for other in others)}: "
            f"{error.strerror}: free some space or solve that, and run the same command again"
        ) from None
    return count


def append(file: OutputFile, data: bytes) -> None:
    """Append to a file. Raises OSError."""
    _, error = file.append(data)
    if error is not None:
        raise error


def batches_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines to batches; the last one may be empty."""
    batch: list[bytes] = []
    size_bytes = 0
    for line in lines:
        batch.append(line)
        size_bytes += len(line)
        if size_bytes >= _BATCH_BYTES:
            yield b"".join(batch)
            batch, size_bytes = [], 0
    yield b"".join(batch)


def _in_line_order(files: Sequence[OutputFile]) -> Iterator[bytes]:
    """Yield the records of files in the order of their lines. Memory holds one number for each."""
    index: list[int] = []
    for number, file in enumerate(files):
        offset = 0
        for record in file.lines():
            index.append(((_line_of(record) << _FILE_BITS | number) << _OFFSET_BITS) | offset)
            offset += len(record)
    index.sort()
    for entry in index:
        file = files[(entry >> _OFFSET_BITS) & ((1 << _FILE_BITS) - 1)]
        yield file.read_line(entry & ((1 << _OFFSET_BITS) - 1))


def _identity(record: bytes) -> bytes:
    """Return the start of a record, its key, line, repeat and file: each has one record, whichever run wrote it."""
    found = _IDENTITY.match(record)
    return record if found is None else found[0]


def _line_of(record: bytes) -> int:
    found = _IDENTITY.match(record)
    return 0 if found is None else int(found[1])


def _take(wanted: set[bytes], identity: bytes) -> bool:
    if identity not in wanted:
        return False
    wanted.remove(identity)
    return True
