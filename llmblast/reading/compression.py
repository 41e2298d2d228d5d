"""Compression: recognise gzip, zstd, bzip2 and xz by the first bytes of an input (`decompression` reads it).

Sources of the magic bytes: RFC 1952 section 2.3.1 (gzip), RFC 8878 sections 3.1.1 and 3.1.2 (zstd, skippable frames),
the .xz file format sections 2.1.1.1 and 2.2, bzip2's manual.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codec:
    """One compression. `magics` are the first bytes that a member may have."""

    name: str
    magics: tuple[bytes, ...]
    command: str
    """The command that decompresses more than we do."""
    ignores_garbage: bool = False


CODECS = (
    Codec("gzip", (b"\x1f\x8b",), "zcat", ignores_garbage=True),
    Codec(
        "zstd",
        (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))),
        "zstdcat --long=31",
    ),
    Codec("xz", (b"\xfd7zXZ\0",), "xzcat"),
    Codec(
        "bzip2",
        tuple(b"BZh%d" % level + start for level in range(1, 10) for start in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")),
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
