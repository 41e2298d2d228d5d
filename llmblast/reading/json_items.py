"""JSON items: the members of an array, or objects that are spread over several lines, each as one line of JSON.

Only brackets outside of texts are searched for, in the regular expression engine; each item keeps its bytes, and so its
numbers, escapes and double keys, without the line ends.
"""

import re
from typing import Final

from llmblast.errors import InputDamagedError
from llmblast.reading.block_buffer import BlockBuffer
from llmblast.reading.input_places import LINE, input_place
from llmblast.reading.lines import BOM, MAX_LINE_BYTES

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL)
_SCALAR = re.compile(rb"(?:" + _STRING + rb"|[^\s,\[\]{}\"]++)", re.DOTALL)
_GAP = re.compile(rb"[\s,]*+")
_SPACE = re.compile(rb"(" + _STRING + rb")|[ \t\r\n]++", re.DOTALL)


class JsonItems:
    """Split the blocks of one file into items. `number` is that of the item, from 1."""

    unit: Final = "item"
    is_typed: Final = True
    columns: Final = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self._buffer = BlockBuffer()
        self._number = 0
        self._lines_before = 0
        self._depth = 0
        """Open brackets of the current item; 0 between items."""
        self._scanned = 0
        """How far the pending item is scanned."""
        self._is_in_array = False
        self._has_started = False

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Return the items that end in `block`. Raises InputDamagedError for an item that does not end."""
        if self._buffer.size_bytes + len(block) > MAX_LINE_BYTES:
            raise self._damage("begins here and has more than 64 MiB")
        data = self._buffer.add(block)
        if data is None:
            return []
        if not self._has_started:
            data = data.removeprefix(BOM)
            self._has_started = True
        return self._split(data, at_end=False)

    def finish(self) -> list[tuple[int, bytes]]:
        """Return a last item. Raises InputDamagedError if it or the array is not complete."""
        items = self._split(self._buffer.take(), at_end=True)
        if self._depth or self._buffer.size_bytes:
            raise self._damage("begins here and is not complete")
        if self._is_in_array:
            raise InputDamagedError(
                f"{input_place(self.name, LINE, self._lines_before + 1)}: the array ends without ']' after item "
                f"{self._number}: complete the file and run the same command again"
            )
        return items

    def _damage(self, what: str) -> InputDamagedError:
        return InputDamagedError(
            f"{input_place(self.name, LINE, self._lines_before + 1)}: item {self._number + 1} {what}: "
            "repair the file (a quote or a bracket is not closed) and run the same command again"
        )

    def _split(self, data: bytes, *, at_end: bool) -> list[tuple[int, bytes]]:
        items: list[tuple[int, bytes]] = []
        start = 0
        while True:
            if not self._depth:
                start = self._after_gap(data, start)
                if start == len(data):
                    break
                self._scanned = start
            end = self._end_of_item(data, start, at_end=at_end)
            if end is None:
                break
            self._number += 1
            items.append((self._number, one_line(data[start:end])))
            start = end
        self._lines_before += data.count(b"\n", 0, start)
        self._scanned -= start
        self._buffer.hold(data[start:])
        return items

    def _after_gap(self, data: bytes, at: int) -> int:
        """Return where the next item begins; go into arrays and out of them."""
        while True:
            match = _GAP.match(data, at)
            at = match.end() if match else at
            bracket = data[at : at + 1]
            if bracket == b"[" and not self._is_in_array:
                self._is_in_array = True
            elif bracket == b"]" and self._is_in_array:
                self._is_in_array = False
            else:
                return at
            at += 1

    def _end_of_item(self, data: bytes, start: int, *, at_end: bool) -> int | None:
        """Return the end of the item that begins at `start`; None if it is not complete."""
        if not self._depth and data[start : start + 1] not in (b"{", b"["):
            match = _SCALAR.match(data, start)
            if match is None and data[start : start + 1] in (b"]", b"}"):
                return start + 1  # a bracket that nothing opened
            return match.end() if match and (at_end or match.end() < len(data)) else None
        at, depth = self._scanned, self._depth
        while match := _TO_BRACKET.match(data, at):
            at = match.end()
            depth += 1 if match[1] in b"{[" else -1
            if not depth:
                break
        self._scanned, self._depth = at, depth
        return None if depth or at == start else at


def one_line(item: bytes) -> bytes:
    """Return JSON without the white space outside of texts if it has line ends, else as it is."""
    if b"\n" not in item and b"\r" not in item:
        return item
    return _SPACE.sub(rb"\1", item)
