"""Read a long JSON array member by member, so that a body of 256 MB is never in memory as a whole."""

import codecs
import json
from collections.abc import Iterable, Iterator

MAX_ITEM_CHARACTERS = 32 * 1024 * 1024
_SPACE = " \t\r\n"
_BEHIND_VALUES = tuple(",]}:" + _SPACE)
"""A number that none of these follows may go on."""
_DECODER = json.JSONDecoder()


def read_items(blocks: Iterable[bytes], member: str) -> Iterator[object]:
    """Yield what the array `member` of an object has in it; other members are skipped. Raises ValueError."""
    text = _Text(blocks)
    text.expect("{")
    if text.skip("}"):
        return
    while True:
        name = text.value()
        text.expect(":")
        if name == member and text.skip("["):
            yield from _array(text)
        else:
            text.value()
        if not text.skip(","):
            text.expect("}")
            return


def _array(text: "_Text") -> Iterator[object]:
    if text.skip("]"):
        return
    while True:
        yield text.value()
        if not text.skip(","):
            text.expect("]")
            return


class _Text:
    """The text behind what was read. It holds a value that has not come as a whole, and grows by doubling."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        decode = codecs.getincrementaldecoder("utf-8")().decode
        self._blocks = (decode(block) for block in blocks)
        self._text = ""
        self._at = 0

    def skip(self, sign: str) -> bool:
        """Go behind a sign if it comes next; return whether it did."""
        if self._next() != sign:
            return False
        self._at += 1
        return True

    def expect(self, sign: str) -> None:
        if not self.skip(sign):
            raise ValueError(f"expected {sign!r}, but got {self._next()!r}")

    def value(self) -> object:
        self._next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if not self._grow():
                    raise
                continue
            if self._text[end : end + 1] not in _BEHIND_VALUES and self._grow():
                continue
            self._at = end
            return value

    def _next(self) -> str:
        """Return the next sign that is no space; an empty text at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._grow():
                return ""

    def _grow(self) -> bool:
        """Read as much again as is held; return whether there was more."""
        held = self._text[self._at :]
        if len(held) > MAX_ITEM_CHARACTERS:
            return False
        more = list[str]()
        missing = max(1, len(held))
        for block in self._blocks:
            more.append(block)
            missing -= len(block)
            if missing <= 0:
                break
        if more:
            self._text, self._at = "".join([held, *more]), 0
        return bool(more)
