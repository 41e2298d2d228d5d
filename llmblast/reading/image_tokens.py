"""Tokens of images and other media that a request contains as base64: providers charge pixels, not bytes.

Formulas and figures: https://platform.openai.com/docs/guides/images-vision, "Calculating costs", and
https://docs.anthropic.com/en/docs/build-with-claude/vision. Unknown models
get a flat number of tokens, a medium of what providers count for a photograph.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from llmblast.models import Part
from llmblast.reading.raw_dialects import MESSAGES

FLAT_TOKENS = 1000.0
_DATA_URL = re.compile(rb"data:[\w.+-]+\\?/[\w.+-]+;base64,([A-Za-z0-9+/=_\\-]*)")
_SOURCE = re.compile(rb'"media_type"\s*:\s*"([\w.+-]+)\\?/[\w.+-]+"\s*,\s*"data"\s*:\s*"([A-Za-z0-9+/=_\\-]*)')
"""Base64 data in the Messages API."""
_AUDIO = re.compile(rb'"input_audio"\s*:\s*\{[^{}]*?"data"\s*:\s*"([A-Za-z0-9+/=_\\-]*)')
"""Base64 data of sound in Chat Completions."""
_DETAIL_BEHIND = re.compile(rb'"\s*\}?\s*,\s*"detail"\s*:\s*"(\w+)"')
_DETAIL_BEFORE = re.compile(rb'"detail"\s*:\s*"(\w+)"\s*,\s*"(?:url|image_url)"\s*:\s*"$')
_NEAR_BYTES = 100
_HEADER_CHARACTERS = 128 * 1024
"""The size in a JPEG follows its metadata, which may contain a preview."""
_TILE = 512
_PATCH = 32
_MAX_PATCHES = 1536
_MAX_SIDE = 2048
_SHORT_SIDE = 768


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tokens for the picture, and for each tile of 512 by 512 pixels in high detail."""

    base: float
    tile: float

    def tokens(self, width: int, height: int, detail: str) -> float:
        """Return the tokens of a picture of this size."""
        if detail == "low":
            return self.base
        scale = min(1.0, _MAX_SIDE / max(width, height))
        scale = min(scale, _SHORT_SIDE / min(width, height))
        tiles = ceil(round(width * scale, 3) / _TILE) * ceil(round(height * scale, 3) / _TILE)
        return self.base + self.tile * tiles


@dataclass(frozen=True, slots=True)
class Patches:
    """Tokens for each patch of 32 by 32 pixels, at most 1,536 patches."""

    factor: float

    def tokens(self, width: int, height: int, detail: str) -> float:
        """Return the tokens of a picture of this size, whatever its detail."""
        across, down = width / _PATCH, height / _PATCH
        if ceil(across) * ceil(down) > _MAX_PATCHES:
            scale = sqrt(_MAX_PATCHES / (across * down))
            across, down = across * scale, down * scale
            scale = min(int(across) / across, int(down) / down) or 1.0
            across, down = round(across * scale, 6), round(down * scale, 6)
        return min(ceil(across) * ceil(down), _MAX_PATCHES) * self.factor


@dataclass(frozen=True, slots=True)
class Pixels:
    """One token per `per_token` pixels, after the picture is scaled down to `max_side` and to `max_tokens`."""

    per_token: float
    max_side: int = 1568
    max_tokens: float = 1600.0

    def tokens(self, width: int, height: int, detail: str) -> float:
        """Return the tokens of a picture of this size, whatever its detail."""
        scale = min(1.0, self.max_side / max(width, height))
        return min(ceil(width * scale) * ceil(height * scale) / self.per_token, self.max_tokens)


_CLAUDE = Pixels(750.0)
_BY_NAME: Mapping[str, Tiles | Patches | Pixels] = {
    "claude": _CLAUDE,
    "gpt-4.1-mini": Patches(1.62),
    "gpt-4.1-nano": Patches(2.46),
    "gpt-5-mini": Patches(1.62),
    "gpt-5-nano": Patches(2.46),
    "o4-mini": Patches(1.72),
    "gpt-4o-mini": Tiles(2833, 5667),
    "gpt-4o": Tiles(85, 170),
    "gpt-4.1": Tiles(85, 170),
    "gpt-4.5": Tiles(85, 170),
    "gpt-4-turbo": Tiles(85, 170),
    "gpt-5": Tiles(70, 140),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "computer-use-preview": Tiles(65, 129),
}
_NAMES = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(_BY_NAME, key=len, reverse=True)))})(?![a-z0-9])")


def measure(body: bytes, model: str | None) -> tuple[int, float]:
    """Return the number of bytes of base64 data in a request's body, and the tokens of the images in them."""
    data_bytes, tokens = 0, 0.0
    for found in _DATA_URL.finditer(body):
        data_bytes += len(found[0])
        size = _size_of(found[1]) if found[0].startswith(b"data:image") else None
        price = _price_of(model)
        tokens += FLAT_TOKENS if size is None or price is None else price.tokens(*size, _detail_of(body, found))
    for found in _SOURCE.finditer(body) if b'"media_type"' in body else ():
        data_bytes += len(found[2])
        size = _size_of(found[2]) if found[1] == b"image" else None
        tokens += FLAT_TOKENS if size is None else (_price_of(model) or _CLAUDE).tokens(*size, "auto")
    for found in _AUDIO.finditer(body) if b'"input_audio"' in body else ():
        data_bytes += len(found[1])
        tokens += FLAT_TOKENS
    return data_bytes, tokens


def measure_parts(parts: Sequence[Part], model: str | None, dialects: Container[str]) -> tuple[int, float]:
    """Return the same for the media of a prompt; `dialects` of its provider count where the model is unknown. Texts
    count like the rest of a body.
    """
    data_bytes, tokens = 0, 0.0
    price = _price_of(model) or (_CLAUDE if MESSAGES in dialects else None)
    for part in parts:
        if not part.data or part.media_type.startswith("text/"):
            continue
        data_bytes += len(part.data)
        size = _size_of(part.data[:_HEADER_CHARACTERS].encode()) if part.kind == "image" else None
        tokens += FLAT_TOKENS if size is None or price is None else price.tokens(*size, "auto")
    return data_bytes, tokens


def _price_of(model: str | None) -> Tiles | Patches | Pixels | None:
    """Return the formula of a model; ignore a prefix such as `openai/` and a suffix such as `-2024-08-06`."""
    match = _NAMES.match(model.rpartition("/")[2].lower()) if model else None
    return _BY_NAME[match[0]] if match else None


def _detail_of(body: bytes, found: re.Match[bytes]) -> str:
    detail = _DETAIL_BEHIND.match(body, found.end(), found.end() + _NEAR_BYTES)
    if detail is None:
        detail = _DETAIL_BEFORE.search(body[max(0, found.start() - _NEAR_BYTES) : found.start()])
    return detail[1].decode() if detail else "auto"


def _size_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height of the picture that starts with this base64 data."""
    text = data[:_HEADER_CHARACTERS].replace(b"\\", b"").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        head = b64decode(text[: len(text) // 4 * 4])
    except ValueError:
        return None
    for magic, read in _READERS.items():
        if head.startswith(magic):
            size = read(head)
            return size if size is not None and min(size) > 0 else None
    return None


def _png(head: bytes) -> tuple[int, int] | None:
    return (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) if len(head) >= 24 else None


def _gif(head: bytes) -> tuple[int, int] | None:
    return (int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")) if len(head) >= 10 else None


def _bmp(head: bytes) -> tuple[int, int] | None:
    if len(head) < 26:
        return None
    return abs(int.from_bytes(head[18:22], "little", signed=True)), abs(
        int.from_bytes(head[22:26], "little", signed=True)
    )


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if len(head) < 30 or head[8:12] != b"WEBP":
        return None
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Return the size in the frame header, found segment by segment (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4])
    return None


_READERS: Mapping[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
    b"BM": _bmp,
}
