"""Decompression: undo the content codings of a body, within the same cap as any reply (RFC 9110 section 8.4.1).

Some servers name a coding that the body does not have, pad the compressed data, or leave out its checksum: text stays
as it is, padding behind a complete member is left out, and complete JSON needs no checksum.
"""

import re
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from llmblast.models import Reply
from llmblast.sending.complete_bodies import is_complete

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE_BYTES = 64 * 1024
_MAX_MEMBERS = 1000
"""A reply of nothing but empty members would take minutes of CPU."""
_ZSTD_WINDOW_LOG = 23
"""RFC 9659: no window of more than 8 MB in this content coding."""
_SHOWN_CHARACTERS = 40
_MAX_CODINGS = 4
_NOT_IN_TEXTS = rb"[\x00-\x08\x0b\x0c\x0e-\x1f]"


class _Decompressor(Protocol):
    """The common part of zlib and zstd; `eof` says that a member has ended, `unused_data` are the bytes behind it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class UnreadableError(Exception):
    """The body does not have its coding; the text is for a person."""


class TooLargeError(Exception):
    """The decompressed body is larger than the cap."""


def decompress(names: str, body: bytes, max_bytes: int) -> bytes:
    """Undo the codings in `names`, the last one first; return text that has none of them as it is.

    Raises UnreadableError and TooLargeError.
    """
    codings = names.split(", ")
    for coding in reversed(codings):
        try:
            if coding not in _DECOMPRESSORS or len(codings) > _MAX_CODINGS:
                raise UnreadableError(f"is encoded as {names[:_SHOWN_CHARACTERS]!r}, which was not requested")
            body = _unpack_one(coding, body, max_bytes)
        except UnreadableError:
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
        raise UnreadableError(f"is not valid {coding} data") from None
    if not is_whole and not is_complete(Reply(body=unpacked)):
        raise UnreadableError(f"is incomplete: its {coding} data have no end")
    return unpacked


def _read_members(open_for: Callable[[bytes], _Decompressor], body: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Decompress all members or frames in pieces. Return the data, and whether the last member has an end.

    Bytes behind a complete member that are not another one are left out.
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
            if room < 0 or members > _MAX_MEMBERS:
                raise TooLargeError
            pieces.append(piece)
            data = decompressor.unused_data if decompressor.eof else b""
    return b"".join(pieces), decompressor.eof


def _open_gzip(data: bytes) -> _Decompressor:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _open_deflate(data: bytes) -> _Decompressor:
    """Open the zlib format, or the bare deflate data that some servers send: RFC 9110 section 8.4.1.2."""
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
"""Factories of decompressors for the first or the next member, which take its first bytes."""
