"""Content codings: takes off what a server compressed (RFC 9110 section 8.4.1), within the same cap as any reply.

We ask for none: answers are small, and unpacking 64 KB costs 150 us of CPU, where a whole exchange costs 10. Some
gateways compress unasked, and an endpoint's own `headers` may ask (`Accept-Encoding = "gzip"`) where the line is slow.
Of a Content-Encoding that stands there twice the first one counts. Transfer codings but for `chunked` count as well.

Some servers name a coding that the body does not have, pad what they packed, or leave out its checksum: text stays as
it is, padding behind a whole member is left out, and whole JSON needs no checksum.
"""

import re
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from llmblast.records import Cause, Reply
from llmblast.sending.complete_bodies import is_complete

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE_BYTES = 64 * 1024
_MOST_MEMBERS = 1000
"""A reply of nothing but empty members would keep the processor busy for minutes."""
_ZSTD_WINDOW_LOG = 23
"""RFC 9659: no window of more than 8 MB in this content coding."""
_SHOWN_CHARACTERS = 40
_BRACE = b"{"
_NONE = ("", "identity", "chunked")
_MOST_CODINGS = 4
_NOT_IN_TEXTS = rb"[\x00-\x08\x0b\x0c\x0e-\x1f]"


class _Decompressor(Protocol):
    """What zlib and zstd have in common; `unused_data` is what follows the end of a member, `eof` that it was seen."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _UnreadableError(Exception):
    """The body is not what its coding says; the text is for a person."""


class _TooLargeError(Exception):
    """More bytes come out than the cap allows."""


def without_coding(reply: Reply, max_bytes: int) -> Reply:
    """The reply with its body as it was before it was compressed, or as it is where that is told of no coding.

    A body that cannot be read is dropped, and the Reply's `detail` says why; its status and headers still count. One
    that grows beyond `max_bytes` is TOO_LARGE, and no more than that is ever unpacked.
    """
    if reply.body[:1] == _BRACE:  # JSON already, whatever its headers say: nearly all replies cost no look at them
        return reply
    coding = _coding_of(reply)
    if not coding or not reply.body:
        return reply
    try:
        reply.body = _unpack(coding, reply.body, max_bytes)
    except _TooLargeError:
        return Reply(cause=Cause.TOO_LARGE, detail=f"the reply unpacks to more than {max_bytes} bytes and was cut off")
    except _UnreadableError as error:
        reply.body, reply.detail = b"", f"the body of the reply {error}"
    return reply


def _coding_of(reply: Reply) -> str:
    values = [reply.header(b"content-encoding") or b"", reply.header(b"transfer-encoding") or b""]
    codings = (coding.strip().lower() for coding in b",".join(values).decode("latin-1").split(","))
    return ", ".join(coding for coding in codings if coding not in _NONE)


def _unpack(names: str, body: bytes, max_bytes: int) -> bytes:
    """Take off the codings in `names`, the last one first; text that has none of them is returned as it is."""
    codings = names.split(", ")
    for coding in reversed(codings):
        try:
            if coding not in _DECOMPRESSORS or len(codings) > _MOST_CODINGS:
                raise _UnreadableError(f"is encoded as {names[:_SHOWN_CHARACTERS]!r}, which was not requested")
            body = _unpack_one(coding, body, max_bytes)
        except _UnreadableError:
            if not _is_text(body):
                raise
            return body
    return body


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return re.search(_NOT_IN_TEXTS, body) is None


def _unpack_one(coding: str, body: bytes, max_bytes: int) -> bytes:
    try:
        unpacked, is_whole = _read_members(_DECOMPRESSORS[coding], body, max_bytes)
    except (zlib.error, zstd.ZstdError):
        raise _UnreadableError(f"is not valid {coding} data") from None
    if not is_whole and not is_complete(Reply(body=unpacked)):
        raise _UnreadableError(f"is incomplete: its {coding} data have no end")
    return unpacked


def _read_members(open_for: Callable[[bytes], _Decompressor], body: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Unpack all members or frames, one behind the other, in pieces. Return them, and whether the last one has an end.

    What is no member behind a whole one is left out.
    """
    pieces: list[bytes] = []
    room = max_bytes
    decompressor, members = open_for(body), 1
    for start in range(0, len(body), _PIECE_BYTES):
        data = body[start : start + _PIECE_BYTES]
        while data:
            is_new = decompressor.eof
            if is_new:
                decompressor, members = open_for(data), members + 1
            try:
                piece = decompressor.decompress(data, room + 1)
            except (zlib.error, zstd.ZstdError):
                if is_new:
                    return b"".join(pieces), True
                raise
            room -= len(piece)
            if room < 0 or members > _MOST_MEMBERS:
                raise _TooLargeError
            pieces.append(piece)
            data = decompressor.unused_data if decompressor.eof else b""
    return b"".join(pieces), decompressor.eof


def _open_gzip(data: bytes) -> _Decompressor:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _open_deflate(data: bytes) -> _Decompressor:
    """`deflate` means the zlib format, and some servers send bare deflate data: RFC 9110 section 8.4.1.2."""
    has_zlib_header = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_zlib_header else -zlib.MAX_WBITS)


def _open_zstd(data: bytes) -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_DECOMPRESSORS: dict[str, Callable[[bytes], _Decompressor]] = {
    "gzip": _open_gzip,
    "x-gzip": _open_gzip,
    "deflate": _open_deflate,
    "zstd": _open_zstd,
}
"""What opens the first or the next member, from the bytes that it begins with."""
