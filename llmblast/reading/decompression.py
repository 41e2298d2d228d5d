"""Decompression: read a compressed input piece by piece.

An input may have several members (gzip), frames (zstd) or streams (bzip2, xz) one after another; zeros between and
behind them are padding. What else follows is ignored behind gzip and bzip2, as by zcat and bzcat, and damage elsewhere.
Each piece of output is bounded, however little input it takes, and so is the memory of a decompressor.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from llmblast.reading.compression import Codec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_OUTPUT_BYTES = 256 * 1024
_MAX_XZ_BYTES = 128 * 1024 * 1024
_MAX_ZSTD_WINDOW_LOG = 27
"""128 MiB, which is also what the command zstd takes unless told otherwise. xz -9 needs 65 MiB."""
_TOO_LARGE = "memory"
"""In the messages of xz and zstd about data that need more."""
_REPAIR = "repair the input and run the same command again to go on"


class DamagedError(Exception):
    """The data cannot be decompressed; the text is for a person, without place and without the `fix`."""

    def __init__(self, reason: str, fix: str = _REPAIR) -> None:
        super().__init__(reason)
        self.fix = fix


class _Decompressor(Protocol):
    """The common part of bz2, lzma and zstd: a decompressor of one member, which keeps input that it does not need yet.

    `eof` says that the member has ended, `unused_data` are the bytes behind it.
    """

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _GzipMember:
    """zlib's decompressor of a member, with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not (self._is_full or self._zlib.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        tail = self._zlib.unconsumed_tail
        output = self._zlib.decompress(tail + data if tail else data, max_length)
        self._is_full = len(output) == max_length
        return output


def _open_xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_BYTES)


def _open_zstd() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG})


_OPENERS: Mapping[str, Callable[[], _Decompressor]] = {
    "gzip": _GzipMember,
    "zstd": _open_zstd,
    "xz": _open_xz,
    "bzip2": bz2.BZ2Decompressor,
}
"""By the name of the codec."""


class MemberReader:
    """Decompress all members of one input. Not for several threads at once."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._member: _Decompressor | None = None
        self._waiting = b""
        """Input of a member that was just opened; without one, input of which it is not clear yet what it is."""
        self.has_garbage = False
        """Something that is no member follows the last one, and is ignored."""

    @property
    def needs_input(self) -> bool:
        """Return whether there is no more output without more input."""
        return self._member is None or (self._member.needs_input and not self._waiting)

    def decompress(self, data: bytes) -> bytes:
        """Return at most MAX_OUTPUT_BYTES of output; none if more input is needed. Raises DamagedError."""
        self._check_garbage()
        data, self._waiting = self._waiting + data, b""
        if self._member is None:
            data = self._open_next(data)
        output = b""
        while self._member is not None and not output:
            try:
                output = self._member.decompress(data, MAX_OUTPUT_BYTES)
            except (zlib.error, zstd.ZstdError, lzma.LZMAError, OSError, ValueError, EOFError) as error:
                raise self._explain(error) from None
            data = b""
            if self._member.eof:
                data = self._open_next(self._member.unused_data)
            elif self._member.needs_input:
                break
        self._waiting = data or self._waiting
        return output

    def finish(self) -> None:
        """Check that the input ended behind a member. Raises DamagedError."""
        if self._member is not None:
            raise DamagedError(f"its {self._codec.name} data is cut off")
        self.has_garbage = self.has_garbage or bool(self._waiting)
        self._check_garbage()

    def _open_next(self, data: bytes) -> bytes:
        """Open a member if one starts in `data`, and return its input."""
        self._member = None
        data = data.lstrip(b"\0")
        if self.has_garbage or not data:
            return b""
        if data.startswith(self._codec.magics):
            self._member = _OPENERS[self._codec.name]()
            return data
        if any(magic.startswith(data) for magic in self._codec.magics):
            self._waiting = data
        else:
            self.has_garbage = True
        return b""

    def _check_garbage(self) -> None:
        if self.has_garbage and not self._codec.ignores_garbage:
            raise DamagedError(f"something else follows its {self._codec.name} data")

    def _explain(self, error: Exception) -> DamagedError:
        if _TOO_LARGE in str(error).lower():
            fix = f"decompress it: {self._codec.command} FILE | llmblast run -"
            return DamagedError(f"its {self._codec.name} data needs more than 128 MiB of memory", fix)
        return DamagedError(f"its {self._codec.name} data is damaged")
