"""The mock's prompt cache: which part of a prompt a request before it has had, too.

A prefix is in the cache once the request that brought it has been answered, not before: the first of a group has to be
answered before the others can gain. Prefixes end at each 128th token, as OpenAI's do, or at the blocks of an Anthropic
prompt; they are compared by a hash of all that stands before.
Sources: https://platform.openai.com/docs/guides/prompt-caching,
https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.prompt_parts import Part
from llmblast.mocking.settings import MockSettings

MAX_PREFIXES = 200_000
BLOCK_TOKENS = 128
_BLOCK_LETTERS = BLOCK_TOKENS * BYTES_PER_TOKEN


class Prefix(NamedTuple):
    """The hash of a beginning of a prompt, and its tokens."""

    digest: bytes
    tokens: int
    is_kept: bool = True


class CacheUse(NamedTuple):
    """Tokens that a prompt reads from the cache and those that it adds, and what to remember when it is answered."""

    read: int
    added: int
    prefixes: tuple[bytes, ...]


class PromptCache:
    """Remembers prefixes, the least recently used are forgotten first. Settings that count begin with `cache_`."""

    def __init__(self, settings: MockSettings, clock: Callable[[], float]) -> None:
        self._ttl_s = settings.cache_ttl
        self._min_tokens = settings.cache_min_tokens
        self._clock = clock
        self._expires_s: dict[bytes, float] = {}

    def look_up(self, model: str, parts: Iterable[Part], *, is_asked_for: bool) -> CacheUse:
        """Return what a prompt has in the cache; with `is_asked_for` it ends where a part says so."""
        find = _at_marks if is_asked_for else _at_blocks
        prefixes = [prefix for prefix in find(model, parts) if prefix.tokens >= self._min_tokens]
        last = next((prefix.tokens for prefix in reversed(prefixes) if prefix.is_kept), 0)
        read = 0
        for prefix in prefixes:
            if prefix.tokens <= last and self._has(prefix.digest):
                read = prefix.tokens
        return CacheUse(read, last - read, tuple(prefix.digest for prefix in prefixes if prefix.is_kept))

    def remember(self, prefixes: Iterable[bytes]) -> None:
        """Take up the prefixes of a prompt that is being answered."""
        expires_s = self._clock() + self._ttl_s
        for digest in prefixes:
            self._expires_s.pop(digest, None)
            self._expires_s[digest] = expires_s
        while len(self._expires_s) > MAX_PREFIXES:
            del self._expires_s[next(iter(self._expires_s))]

    def _has(self, digest: bytes) -> bool:
        return self._clock() < self._expires_s.get(digest, 0.0)


def _at_blocks(model: str, parts: Iterable[Part]) -> Iterator[Prefix]:
    """Yield the prefixes of whole blocks of tokens."""
    hashed, letters = blake2b(model.encode(), digest_size=12), 0
    for part in parts:
        hashed.update(b"\0" + part.label + b"\0")
        start = 0
        while start < len(part.text):
            piece = part.text[start : start + _BLOCK_LETTERS - letters % _BLOCK_LETTERS]
            hashed.update(piece.encode())
            start, letters = start + len(piece), letters + len(piece)
            if letters % _BLOCK_LETTERS == 0:
                yield Prefix(hashed.digest(), letters // BYTES_PER_TOKEN)


def _at_marks(model: str, parts: Iterable[Part]) -> Iterator[Prefix]:
    """Yield the prefixes at the end of each part; those that end where a part says so are kept."""
    hashed, letters = blake2b(model.encode(), digest_size=12), 0
    for part in parts:
        hashed.update(b"\0" + part.label + b"\0" + part.text.encode())
        letters += len(part.text)
        yield Prefix(hashed.digest(), letters // BYTES_PER_TOKEN, part.ends_prefix)
