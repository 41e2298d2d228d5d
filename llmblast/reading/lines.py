r"""From blocks of bytes to numbered lines, and the key by which a line is known again.

Lines end at b"\n" and nowhere else: U+2028 and its like may stand in JSON text. Parts of a line that spans blocks are
collected and joined once, so a long line costs its length, not its square.
"""

from hashlib import blake2b

BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 64 * 1024 * 1024
EXCERPT_BYTES = 1024
KEY_BYTES = 8


class OversizedLine(bytes):
    """The first bytes of a line that exceeds the cap, in place of its text.

    `key` is the key of the whole line, so that a resumed run knows it again; `size_bytes` is the whole line's length.
    `key_of` and `RequestParser` know this class: whoever passes lines on need not.
    """

    key: str
    size_bytes: int


def key_of(text: bytes) -> str:
    """BLAKE2b-64 of a line's stripped bytes, as 16 hex digits."""
    if type(text) is OversizedLine:
        return text.key
    return blake2b(text, digest_size=KEY_BYTES).hexdigest()


class LineSplitter:
    """Splits blocks of any size into (1-based line number, text stripped of ASCII white space).

    A BOM at the start of the file is taken off; blank lines are counted and left out. A line of more than
    `max_line_bytes` (white space included, line end not) is delivered as an OversizedLine.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._number = 0
        self._start: bytes | None = b""
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._oversized: _OversizedReader | None = None

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """The lines that `block` completes."""
        if self._start is not None:
            block = self._start + block
            if len(block) < len(BOM) and BOM.startswith(block):
                self._start = block
                return []
            self._start = None
            block = block.removeprefix(BOM)
        return self._split(block)

    def finish(self) -> list[tuple[int, bytes]]:
        """The last line, where the file does not end with a line end."""
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
        """Adds a piece of the line that is under way."""
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
        """Delivers the line that is under way, unless it is blank."""
        self._number += 1
        text = self._oversized.line() if self._oversized is not None else b"".join(self._parts).strip()
        self._oversized = None
        self._parts.clear()
        self._parts_bytes = 0
        if text:
            lines.append((self._number, text))


class _OversizedReader:
    """Hashes a line piece by piece; the key is the one that the stripped whole would have."""

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
            # White space that follows belongs to the line only if more text comes: keep the state before it.
            self._stripped = self._hash.copy()
        self._hash.update(piece[len(text) :])

    def line(self) -> bytes:
        """The OversizedLine; empty bytes if there was nothing but white space."""
        if not self._excerpt:
            return b""
        line = OversizedLine(self._excerpt)
        line.key = self._stripped.hexdigest()
        line.size_bytes = self._size_bytes
        return line
