"""Compression: recognise gzip, zstd, bzip2 and xz by the first bytes of an input, and decompress it piece by piece.

An input may have several members (gzip), frames (zstd) or streams (bzip2, xz) one after another; zeros between and
behind them are padding. What else follows is ignored behind gzip and bzip2, as by zcat and bzcat, and damage elsewhere.
Each piece of output is bounded, however little input it takes, and so is the memory of a decompressor.

Sources of the magic bytes: RFC 1952 section 2.3.1 (gzip), RFC 8878 sections 3.1.1 and 3.1.2 (zstd, skippable frames),
the .xz file format sections 2.1.1.1 and 2.2, bzip2's manual.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_OUTPUT_BYTES = 256 * 1024
_MAX_XZ_BYTES = 128 * 1024 * 1024
_MAX_ZSTD_WINDOW_LOG = 27
"""128 MiB, which is also what the command zstd takes unless told otherwise. xz -9 needs 65 MiB."""
_TOO_LARGE = ("memory",)
"""Parts of the messages of xz and zstd about data that need more."""


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


@dataclass(frozen=True, slots=True)
class Codec:
    """One compression. `magics` are the first bytes that a member may have."""

    name: str
    magics: tuple[bytes, ...]
    open: Callable[[], _Decompressor]
    command: str
    """The command that decompresses more than we do."""
    ignores_garbage: bool = False


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


CODECS = (
    Codec("gzip", (b"\x1f\x8b",), _GzipMember, "zcat", ignores_garbage=True),
    Codec(
        "zstd",
        (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))),
        _open_zstd,
        "zstdcat --long=31",
    ),
    Codec("xz", (b"\xfd7zXZ\0",), _open_xz, "xzcat"),
    Codec(
        "bzip2",
        tuple(b"BZh%d" % level + start for level in range(1, 10) for start in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")),
        bz2.BZ2Decompressor,
        "bzcat",
        ignores_garbage=True,
    ),
)
_CODEC_OF: Mapping[bytes, Codec] = {magic: codec for codec in CODECS for magic in codec.magics}
START_BYTES = max(map(len, _CODEC_OF))
"""So many first bytes tell whether an input is compressed."""


def codec_of(start: bytes) -> Codec | None:
    """Return the compression of an input by its first bytes; None for an input that is not compressed."""
    return next((codec for magic, codec in _CODEC_OF.items() if start.startswith(magic)), None)


def is_undecided(start: bytes) -> bool:
    """Return whether an input with these first bytes may still turn out to be compressed, depending on the next."""
    return any(len(start) < len(magic) and magic.startswith(start) for magic in _CODEC_OF)


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
            raise DamagedError(f"its {self._codec.name} data end too early")
        self.has_garbage = self.has_garbage or bool(self._waiting)
        self._check_garbage()

    def _open_next(self, data: bytes) -> bytes:
        """Open a member if one starts in `data`, and return its input."""
        self._member = None
        data = data.lstrip(b"\0")
        if self.has_garbage or not data:
            return b""
        if data.startswith(self._codec.magics):
            self._member = self._codec.open()
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
        if any(word in str(error).lower() for word in _TOO_LARGE):
            fix = f"decompress it: {self._codec.command} FILE | llmblast run -"
            return DamagedError(f"its {self._codec.name} data need more than 128 MiB of memory", fix)
        return DamagedError(f"its {self._codec.name} data are damaged")
