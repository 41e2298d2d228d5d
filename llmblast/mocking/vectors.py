"""The vectors of embeddings: unit vectors drawn from the text, as numbers or packed."""

import struct
from base64 import b64encode
from hashlib import shake_128

DEFAULT_DIMENSIONS = 8


def make_vector(key: bytes, text: str, dimensions: int) -> list[float]:
    """Return a unit vector; a longer one of the same text begins in the same direction."""
    noise = shake_128(key + text.encode()).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", noise)
    length = sum(number * number for number in raw) ** 0.5 or 1.0
    return [round(number / length, 6) for number in raw]


def pack_vector(vector: list[float]) -> str:
    """Return little-endian 32-bit floats in base64, the `encoding_format` that clients ask for to save bytes."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
