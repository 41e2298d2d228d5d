"""Lenient framing: rewrite a reply that strict parsers refuse as valid HTTP/1.1, where RFC 9112 allows it.

| in the reply | rewritten as | RFC 9112 |
|---|---|---|
| line ends of a bare LF, also in chunked data, of several CR and a LF | CRLF | 2.2 |
| an odd or missing reason phrase, spaces, `http/1.1` in lower case, HTTP/1.2, HTTP/2 | a plain status line | 4 |
| control characters in a header, a header over several lines | spaces, one line | 5.2, RFC 9110 5.5 |
| white space before the colon of a header, an invalid name | removed; the header is left out | 5.1 |
| the same Content-Length several times, words behind it | one | RFC 9110 8.6 |
| a Content-Length beyond 63 bits | the end of the connection counts | 6.3 |
| Transfer-Encoding and Content-Length at once | only the chunks count | 6.3 |
| white space around a chunk's size, extensions of any kind | left out | 7.1 |

Different lengths, NUL, a line without a colon and other protocols stay errors. Such a reply is the last one on its
connection. Only bytes that a strict parser has refused come here, so that other replies cost nothing.
"""

import re
from collections.abc import Callable

_MAX_CHUNK_LINE_BYTES = 64 * 1024
_PREFIX = b"HTTP/"
_LINE_END = rb"\r*\n"
_HEAD_END = rb"\r*\n\r*\n"
_STATUS_LINE = rb"(?is)HTTP/(?:1(?:\.(\d))?|2(?:\.0)?)[ \t]+(\d{3})(?:\D.*)?"
_LENGTH_VALUE = rb"(?s)(\d+)(?:[^\d].*)?"
_MAX_LENGTH = 2**63 - 1
_MAX_LENGTH_DIGITS = 1000
"""Python does not parse numbers of more digits."""
_BODILESS = (204, 304)
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_CONTROLS = rb"[\x01-\x08\x0a-\x1f\x7f]"
_CHUNK_SIZE = rb"(?s)[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?"
"""Patterns are strings, which `re` compiles and keeps when the first reply needs them: most runs never do."""
_LENGTH, _CODING = b"content-length", b"transfer-encoding"


class UnreadableHttpError(Exception):
    """The bytes are not an HTTP/1 reply, or one without a known end; the text says why."""


class ReplyRewriter:
    """Rewrite one reply as it arrives. Bytes behind its end are dropped."""

    def __init__(self) -> None:
        self._pending = b""
        self._is_head_done = False
        self._chunks: _ChunkRewriter | None = None
        self._missing: int | None = None
        """Bytes of the body that have not come; None where chunks or the end of the connection mark the end."""

    def feed(self, data: bytes) -> bytes:
        """Return the next bytes of the rewritten reply, which may be none. Raises UnreadableHttpError."""
        if self._is_head_done:
            return self._take_rest(data) if self._chunks is None else self._chunks.feed(data)
        self._pending += data
        while (end := self._head_end()) is not None:
            head, self._pending = self._pending[: end[0]], self._pending[end[1] :]
            status, lines = _rewrite_head(head.lstrip(b"\r\n"))
            if 100 <= status < 200 and status != 101:
                continue
            self._is_head_done = True
            self._chunks = _ChunkRewriter() if b"transfer-encoding: chunked" in lines else None
            self._missing = 0 if status in _BODILESS else _length_in(lines[-1])
            rest, self._pending = self._pending, b""
            return b"\r\n".join([*lines, b"", self.feed(rest)])
        return b""

    def _take_rest(self, data: bytes) -> bytes:
        if self._missing is None:
            return data
        data = data[: self._missing]
        self._missing -= len(data)
        return data

    def _head_end(self) -> tuple[int, int] | None:
        """Return the end of the head and the start of the body; None where more bytes have to come."""
        start = self._pending.lstrip(b"\r\n")
        if start[: len(_PREFIX)].upper() != _PREFIX[: len(start)]:
            raise UnreadableHttpError("it does not begin with a status line")
        found = re.compile(_HEAD_END).search(self._pending, len(self._pending) - len(start))
        return found and found.span()


class _ChunkRewriter:
    """Rewrite chunked data without extensions and trailers, with CRLF line ends."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        """Start of the next step in the data."""
        self._missing = 0
        """Bytes of the present chunk that have not come."""
        self._step: Callable[[], bytes | None] = self._read_size

    def feed(self, data: bytes) -> bytes:
        """Return the rewritten form of the data so far, as much as is certain. Raises UnreadableHttpError."""
        self._data, self._at = self._data[self._at :] + data, 0
        pieces = []
        while (piece := self._step()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def _read_size(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        size = re.fullmatch(_CHUNK_SIZE, line)
        if size is None:
            raise UnreadableHttpError("the size of a chunk is not a number")
        self._missing = int(size[1], 16)
        self._step = self._read_data if self._missing else self._read_trailer
        return b"%x\r\n" % self._missing if self._missing else b""

    def _read_data(self) -> bytes | None:
        piece = self._data[self._at : self._at + self._missing]
        self._at += len(piece)
        self._missing -= len(piece)
        if not self._missing:
            self._step = self._read_end_of_data
        return piece or None

    def _read_end_of_data(self) -> bytes | None:
        end = re.compile(_LINE_END).match(self._data, self._at)
        if end is None and self._data[self._at :] in (b"", b"\r"):
            return None
        if end is None:
            raise UnreadableHttpError("a chunk is longer than its size says")
        self._at = end.end()
        self._step = self._read_size
        return b"\r\n"

    def _read_trailer(self) -> bytes | None:
        line = self._line()
        if line is None or line not in (b"", b"\r"):
            return None if line is None else b""
        self._step = self._read_nothing
        return b"0\r\n\r\n"

    def _read_nothing(self) -> bytes | None:
        self._at = len(self._data)
        return None

    def _line(self) -> bytes | None:
        """Return the next line without its LF, or None where its end has not come."""
        end = self._data.find(b"\n", self._at)
        if (len(self._data) if end < 0 else end) - self._at > _MAX_CHUNK_LINE_BYTES:
            raise UnreadableHttpError("the line with a chunk's size has no end")
        if end < 0:
            return None
        line, self._at = self._data[self._at : end], end + 1
        return line


def _rewrite_head(head: bytes) -> tuple[int, list[bytes]]:
    """Return the status and the lines of a head, without the empty one at its end."""
    if b"\0" in head:
        raise UnreadableHttpError("there is a NUL in its headers")
    status_line, *lines = re.split(_LINE_END, head)
    found = re.fullmatch(_STATUS_LINE, status_line)
    if found is None:
        raise UnreadableHttpError("its status line is not HTTP/1.1")
    headers = _read_headers(lines)
    version = b"0" if found[1] == b"0" else b"1"
    rewritten = [b"HTTP/1.%b %b OK" % (version, found[2])]
    rewritten += [
        b"%b: %b" % header for header in headers if header[0].lower() not in (_LENGTH, _CODING, b"connection")
    ]
    return int(found[2]), [*rewritten, b"Connection: close", *_framing(headers)]


def _read_headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    unfolded: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and unfolded:
            unfolded[-1] += b" " + line.strip()
        else:
            unfolded.append(line)
    headers = []
    for line in unfolded:
        name, colon, value = line.partition(b":")
        if not colon:
            raise UnreadableHttpError("a line of its headers has no colon")
        name = name.strip(b" \t")
        if re.fullmatch(_TOKEN, name):
            headers.append((name, re.sub(_CONTROLS, b" ", value).strip()))
    return headers


def _framing(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the one header that marks the end of the body, or none where the end of the connection does."""
    codings, lengths = (
        {value.strip().lower() for name, values in headers if name.lower() == wanted for value in values.split(b",")}
        for wanted in (_CODING, _LENGTH)
    )
    codings -= {b"identity", b""}
    if codings:
        if codings != {b"chunked"}:
            raise UnreadableHttpError("its Transfer-Encoding is not chunked")
        return [b"transfer-encoding: chunked"]
    found = [re.fullmatch(_LENGTH_VALUE, length) for length in lengths]
    values = {int(length[1][:_MAX_LENGTH_DIGITS]) for length in found if length is not None}
    if None in found:
        raise UnreadableHttpError("its Content-Length is not a number")
    if len(values) > 1:
        raise UnreadableHttpError("it has several different Content-Lengths")
    return [b"content-length: %d" % length for length in values if length <= _MAX_LENGTH]


def _length_in(line: bytes) -> int | None:
    """Return the length in the last line of a rewritten head; None where that is not a Content-Length."""
    name, _, value = line.partition(b": ")
    return int(value) if name == _LENGTH else None
