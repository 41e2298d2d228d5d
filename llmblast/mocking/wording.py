"""The words of an answer: a plausible short text from the prompt's own words, one word a token.

The same prompt, seed and salt always give the same text.
"""

import math
import re
from hashlib import blake2b
from statistics import NormalDist
from typing import NamedTuple

from llmblast.mocking.settings import MockSettings

MAX_OUTPUT_TOKENS = 131_072
"""The longest reply of today's models, where the tail of a log-normal is cut off."""

_QUOTED_CHARACTERS = 2000
_NORMAL = NormalDist()
_DRAWS = 2.0**53
_WORD = re.compile(r"\w{1,24}")
_PIECE = re.compile(r"\s*\S{1,26}\s*\Z|\s*\S{1,26}|\s+")
"""A word of `_WORD` with its colon or full stop is one piece."""
_OPENINGS = (
    ["In", "short:"],
    ["The", "answer", "is:"],
    ["To", "sum", "up:"],
    ["It", "is", "about:"],
    ["Briefly:"],
)


class Wording(NamedTuple):
    """A text, its tokens, and why it ends."""

    text: str
    tokens: int
    finish_reason: str


class Writer:
    """Writes texts; the settings that count are `seed`, `tokens` and `sigma`."""

    def __init__(self, settings: MockSettings) -> None:
        self._key = settings.seed.to_bytes(8, "big")
        self._sigma = settings.sigma
        # The mean of a log-normal is exp(mu + sigma^2 / 2).
        self._mu = math.log(settings.tokens) - settings.sigma**2 / 2
        self._fewest_tokens = max(1, settings.tokens // 2)
        self._spread = 2 * (settings.tokens - self._fewest_tokens) + 1

    def write(self, prompt: str, cap: int | None, salt: bytes = b"") -> Wording:
        """Return a text of `cap` tokens at most; another `salt`, of 16 bytes at most, gives another one."""
        digest = self.draw(prompt, salt)
        words = words_of(prompt)
        start = (digest >> 16) % len(words)
        wanted = self._length(digest)
        rotated = words[start:] + words[:start]
        sentence = (_OPENINGS[(digest >> 8) % len(_OPENINGS)] + rotated * (wanted // len(rotated) + 1))[:wanted]
        if cap is not None and cap < wanted:
            return Wording(" ".join(sentence[:cap]), cap, "length")
        return Wording(" ".join(sentence) + ".", wanted, "stop")

    def draw(self, prompt: str, salt: bytes = b"") -> int:
        """Return the number of 64 bits that everything about an answer is drawn from."""
        hashed = blake2b(prompt.encode(), digest_size=8, key=self._key, salt=salt)
        return int.from_bytes(hashed.digest(), "big")

    def _length(self, digest: int) -> int:
        if not self._sigma:
            return self._fewest_tokens + digest % self._spread
        deviations = _NORMAL.inv_cdf(((digest >> 11) + 0.5) / _DRAWS)
        return min(max(1, round(math.exp(self._mu + self._sigma * deviations))), MAX_OUTPUT_TOKENS)


def words_of(prompt: str) -> list[str]:
    """Return the words of a prompt's beginning, at least one."""
    return _WORD.findall(prompt[:_QUOTED_CHARACTERS]) or ["nothing", "in", "particular"]


def pieces_of(text: str) -> list[str]:
    """Cut a text into its tokens, which joined are the text again."""
    return _PIECE.findall(text)


def salt_of(seed: int | None, index: int) -> bytes:
    """Return the salt of a choice: none for the first one of a request without a seed."""
    if seed is None and not index:
        return b""
    return (
        (seed or 0).to_bytes(8, "big", signed=True) + (seed is not None).to_bytes(1, "big") + index.to_bytes(4, "big")
    )
