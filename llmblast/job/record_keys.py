"""Record keys: the keys of lines that are records of another run, as in `llmblast run ... | llmblast run -`.

The bytes of a record are not the same each time its line is answered: the answer differs, or at least the latency. In
a stream, where the run before is repeated after a stop, such a line is recognised by where it came from: the start of
its record, with key, line, repeat and file of the original line. The record that is made of it has that line number,
too, so that it is the same after the third run of a row. Records in a file stay as they are, and there the bytes count
as in any other line: files of several runs over the same lines may stand in a row.

A stream, too, may hold the records of several runs (`cat`). Then only the first record of a line is recognised by its
origin, the others by their bytes. A Bloom filter tells which have come before: 8 MiB, whatever the number of lines. A
wrong "came before", one in a thousand for some millions of lines, means that a line counts by its bytes.
"""

import re
from typing import Final, NamedTuple

from llmblast.reading import key_of

RECORD_START: Final = b'{"key":"'
_ORIGIN = re.compile(
    rb'\{"key":"[0-9a-f]{16}","line":(\d{1,15})(?:,"repeat":\d{1,9})?(?:,"file":"(?:[^"\\]|\\.)*")?(?=[,}])'
)
_FILTER_BITS = 1 << 26
_PROBES = 3


class LineKeys(NamedTuple):
    """Number and key of a line, and another key that a record of an earlier run may have, or none."""

    number: int
    key: str
    other_key: str


class RecordKeys:
    """Find the keys of records. `may_mix` tells that records of several runs may come."""

    def __init__(self, *, may_mix: bool = True) -> None:
        self.is_stream = False
        """The present input is a stream of records, not a file."""
        self._may_mix = may_mix
        self._filter = bytearray()

    def find(self, number: int, key: str, text: bytes) -> LineKeys:
        """Return the keys of a line that starts like a record; `key` is that of its bytes."""
        origin = _ORIGIN.match(text)
        if origin is None:
            return LineKeys(number, key, "")
        key_of_origin = key_of(origin[0])
        if not self.is_stream:
            return LineKeys(number, key, key_of_origin)
        if self._may_mix and self._came_before(key_of_origin):
            return LineKeys(number, key, "")
        return LineKeys(int(origin[1]), key_of_origin, key)

    def _came_before(self, key: str) -> bool:
        """Return whether a key was asked for before, and remember it."""
        if not self._filter:
            self._filter = bytearray(_FILTER_BITS // 8)
        bits, step = int(key[:8], 16), int(key[8:], 16) | 1
        came_before = True
        for _ in range(_PROBES):
            index, bit = (bits % _FILTER_BITS) >> 3, 1 << (bits & 7)
            if not self._filter[index] & bit:
                came_before = False
                self._filter[index] |= bit
            bits += step
        return came_before
