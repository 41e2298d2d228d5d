r"""Split blocks of bytes into numbered lines, and hash lines to the keys by which later runs recognise them.

Lines end only at b"\n": JSON text may contain U+2028 and similar characters. The parts of a line that spans blocks are
joined once, so the cost of a long line is linear in its length.
"""

from hashlib import blake2b
from typing import Final

from llmblast.reading.oversized_line import OversizedLine

_blake2b: Final = blake2b
BOM: Final = b"\xef\xbb\xbf"
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
EXCERPT_BYTES: Final = 1024
KEY_BYTES: Final = 8


def key_of(text: bytes) -> str:
    """Return the BLAKE2b-64 of a line's stripped bytes, as 16 hex digits."""
    if type(text) is OversizedLine:
        return text.key
    return _blake2b(text, digest_size=KEY_BYTES).hexdigest()


class LineSplitter:
    """Split blocks of any size into pairs of a 1-based line number and a text stripped of ASCII white space.

    A BOM at the start of the file is removed; blank lines are counted, but not returned. A line of more than
    `max_line_bytes` (with white space, without line end) becomes an OversizedLine.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._number = 0
        self._start: bytes | None = b""
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._oversized: _OversizedReader | None = None

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Return the lines that end in `block`."""
        if self._start is not None:
            block = self._start + block
            if len(block) < len(BOM) and BOM.startswith(block):
                self._start = block
                return []
            self._start = None
            block = block.removeprefix(BOM)
        return self._split(block)

    def finish(self) -> list[tuple[int, bytes]]:
        """Return the last line, if the file does not end with a line end."""
        start, self._start = self._start, None
        lines = self._split(start) if start else []
        self._end_line(lines)
        return lines

    def _split(self, block: bytes) -> list[tuple[int, bytes]]:
        lines: list[tuple[int, bytes]] = []
        pieces = block.split(b"\n")
        rest = pieces.pop()
        if not pieces:
            self._collect(rest)
            return lines
        self._collect(pieces[0])
        self._end_line(lines)
        number = self._number
        if len(block) <= self._max_line_bytes:
            for piece in pieces[1:]:
                number += 1
                if text := piece.strip():
                    lines.append((number, text))
            self._number = number
        else:
            for piece in pieces[1:]:
                self._collect(piece)
                self._end_line(lines)
        self._collect(rest)
        return lines

    def _collect(self, piece: bytes) -> None:
        """Add a piece to the current line."""
        if not piece:
            return
        if self._oversized is not None:
            self._oversized.add(piece)
            return
        self._parts.append(piece)
        self._parts_bytes += len(piece)
        if self._parts_bytes > self._max_line_bytes:
            self._oversized = _OversizedReader()
            for part in self._parts:
                self._oversized.add(part)
            self._parts.clear()

    def _end_line(self, lines: list[tuple[int, bytes]]) -> None:
        """End the current line, and add it to `lines` unless it is blank."""
        self._number += 1
        text = self._oversized.line() if self._oversized is not None else b"".join(self._parts).strip()
        self._oversized = None
        self._parts.clear()
        self._parts_bytes = 0
        if text:
            lines.append((self._number, text))


class _OversizedReader:
    """Hash a long line piece by piece to the key of the whole stripped line."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=KEY_BYTES)
        self._stripped = self._hash
        self._excerpt = b""
        self._size_bytes = 0

    def add(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if not self._excerpt:
            piece = piece.lstrip()
        if len(self._excerpt) < EXCERPT_BYTES:
            self._excerpt += piece[: EXCERPT_BYTES - len(self._excerpt)]
        text = piece.rstrip()
        if text:
            self._hash.update(text)
            # Trailing white space counts only if more text follows: keep the hash without it.
            self._stripped = self._hash.copy()
        self._hash.update(piece[len(text) :])

    def line(self) -> bytes:
        """Return the OversizedLine; empty bytes if the line is blank."""
        if not self._excerpt:
            return b""
        line = OversizedLine(self._excerpt)
        line.key = self._stripped.hexdigest()
        line.size_bytes = self._size_bytes
        return line
