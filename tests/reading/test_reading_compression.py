"""Compressed data piece by piece: all formats, all ends, all sizes of pieces."""

import bz2
import gzip
import lzma
import struct
import sys
from collections.abc import Callable

import pytest

from llmblast.reading.compression import CODECS, Codec, codec_of
from llmblast.reading.decompression import MAX_OUTPUT_BYTES, DamagedError, MemberReader

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"".join(b'{"input":"%d"}\n' % number for number in range(2000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
IGNORING = ("gzip", "bzip2")
EACH_CODEC = pytest.mark.parametrize("codec", CODECS, ids=[codec.name for codec in CODECS])
EACH_SIZE = pytest.mark.parametrize("piece_bytes", [1, 7, 65_536])


def unpack(codec: Codec, data: bytes, piece_bytes: int = 65_536) -> tuple[bytes, bool]:
    """All output, and whether something behind the data was ignored."""
    members, blocks = MemberReader(codec), []
    for start in range(0, len(data), piece_bytes):
        piece = data[start : start + piece_bytes]
        while True:
            block, piece = members.decompress(piece), b""
            assert len(block) <= MAX_OUTPUT_BYTES
            blocks.append(block)
            if members.needs_input:
                break
    members.finish()
    return b"".join(blocks), members.has_garbage


@EACH_CODEC
@EACH_SIZE
def test_members_follow_each_other_with_padding_or_without(codec: Codec, piece_bytes: int) -> None:
    """As `cat a.gz b.gz` makes them; empty ones count, too."""
    one, empty = COMPRESS[codec.name](TEXT), COMPRESS[codec.name](b"")
    data = one + empty + one + bytes(512) + empty + one + bytes(3)

    assert codec_of(data) is codec
    assert unpack(codec, data, piece_bytes) == (TEXT * 3, False)


@EACH_CODEC
@EACH_SIZE
def test_what_follows_that_is_no_member(codec: Codec, piece_bytes: int) -> None:
    """zcat and bzcat ignore it, xzcat and zstdcat do not. What came before it is delivered in any case."""
    data = COMPRESS[codec.name](TEXT) + b"\x1f garbage"
    if codec.name in IGNORING:
        assert unpack(codec, data, piece_bytes) == (TEXT, True)
        return

    with pytest.raises(DamagedError, match=f"something else follows its {codec.name} data"):
        unpack(codec, data, piece_bytes)


@EACH_CODEC
@EACH_SIZE
def test_data_that_end_too_early(codec: Codec, piece_bytes: int) -> None:
    """Wherever they were cut off."""
    data = COMPRESS[codec.name](TEXT)
    for left in (len(data) - 1, len(data) - 5, len(data) // 2, 11):
        with pytest.raises(DamagedError, match=f"its {codec.name} data is cut off"):
            unpack(codec, data[:left], piece_bytes)


@EACH_CODEC
def test_damaged_data(codec: Codec) -> None:
    """One byte is enough."""
    data = bytearray(COMPRESS[codec.name](TEXT))
    data[len(data) // 2] ^= 0xFF

    with pytest.raises(DamagedError, match=f"its {codec.name} data is damaged"):
        unpack(codec, bytes(data))


@EACH_CODEC
def test_a_bomb_comes_in_bounded_blocks(codec: Codec) -> None:
    """The output of one call is bounded, whatever the input."""
    data = COMPRESS[codec.name](bytes(20_000_000))

    assert unpack(codec, data) == (bytes(20_000_000), False)


def test_thousands_of_empty_members_are_read() -> None:
    """Without a wait for each."""
    assert unpack(CODECS[0], gzip.compress(b"") * 5000 + gzip.compress(TEXT)) == (TEXT, False)


def test_skippable_frames_of_zstd_are_skipped() -> None:
    """pzstd writes one in front."""
    skippable = b"\x57\x2a\x4d\x18" + struct.pack("<I", 5) + b"hello"
    data = skippable + zstd.compress(TEXT) + skippable + zstd.compress(TEXT) + skippable

    assert codec_of(data) is not None
    assert unpack(CODECS[1], data, 3) == (TEXT * 2, False)


@pytest.mark.parametrize("level", range(1, 10))
def test_bzip2_of_every_level_is_recognised(level: int) -> None:
    """Empty files, too."""
    found = [codec_of(bz2.compress(data, level)) for data in (TEXT, b"")]

    assert [codec.name for codec in found if codec is not None] == ["bzip2", "bzip2"]


def test_data_that_need_too_much_memory_are_refused() -> None:
    """The fix names the command that takes more."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    data = compressor.compress(b"x") + compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)

    with pytest.raises(DamagedError, match="needs more than 128 MiB") as raised:
        unpack(CODECS[1], data)

    assert raised.value.fix == "decompress it: zstdcat --long=31 FILE | llmblast run -"
