"""Shared prefixes: find the lines whose prompts begin alike, in bounded memory and in next to no time for all others.

A line whose prompt is shorter than what providers keep is passed by its length. Of a longer one a sample is looked up:
the 64 bytes at the end of its first block. Only where another line had the same sample the prompt is hashed, block by
block, each hash over the one before and its block, as in the prefix cache of vLLM: equal hashes mean that everything up
to there is equal. https://docs.vllm.ai/en/latest/design/prefix_caching.html
"""

from collections.abc import Callable, Container
from typing import Final, Protocol
from zlib import crc32

from llmblast.models import Attempt, Prefix, Request
from llmblast.scheduling.recent import Recent

MIN_PREFIX_BYTES: Final = 4096
"""About 1,024 tokens: OpenAI and most models of Anthropic and Gemini keep no shorter prefix."""
BLOCK_BYTES: Final = 1024
MAX_BLOCKS: Final = 60
"""Blocks behind the first one that are hashed: lines that share more are one group as well."""
PATIENCE: Final = 1000
LATER_EVERY: Final = 8
"""After so many lines in a row that share nothing, only every eighth one is looked at, until one shares something."""
_SAMPLE_BYTES: Final = 64
_SAMPLES: Final = 4096
_BLOCKS: Final = 16_384


class PrefixFinder(Protocol):
    """Finds what a line shares with earlier ones."""

    least_bytes: int
    """Lines with shorter bodies share nothing."""
    is_asked_for: bool
    """A person has named the groups."""

    def find(self, attempt: Attempt) -> Prefix | None:
        """Set the prefix of a line; return that which it shares with an earlier line, if it does."""


class PrefixesByField:
    """Lines share a prefix where a field has the same value."""

    def __init__(self, value_of: Callable[[Request], object]) -> None:
        self.least_bytes = 0
        self.is_asked_for = True
        self._value_of = value_of
        self._known = Recent(_SAMPLES)

    def find(self, attempt: Attempt) -> Prefix | None:
        """See `PrefixFinder`."""
        request = attempt.request
        value = self._value_of(request)
        if value is None:
            return None
        key = (request.model, value)
        prefix = attempt.prefix = self._known.get(key)
        if prefix is None:
            attempt.prefix = fresh = Prefix(attempt)
            self._known.put(key, fresh)
        elif not prefix.is_shared:
            prefix.is_shared, prefix.key = True, crc32(repr(value).encode(errors="replace"))
        return prefix


class PrefixesByHash:
    """Lines share a prefix where their prompts begin with the same bytes, 4 KB or more.

    `front_of` tells where in a body the prompt begins. Bodies of the kinds `system_behind` may have the system message,
    which counts first, behind the others; `with_system_first` moves it. `tools_behind` returns what else counts first.
    """

    def __init__(
        self,
        front_of: Callable[[Request], int],
        with_system_first: Callable[[Request], bytes],
        tools_behind: Callable[[Request], bytes],
        system_behind: Container[str],
    ) -> None:
        self.least_bytes = MIN_PREFIX_BYTES
        self.is_asked_for = False
        self._front_of = front_of
        self._with_system_first = with_system_first
        self._tools_behind = tools_behind
        self._system_behind = system_behind
        self._misses = 0
        """Lines in a row whose sample was not seen before."""
        self._samples = Recent(_SAMPLES)
        self._blocks = Recent(_BLOCKS)

    def find(self, attempt: Attempt) -> Prefix | None:
        """See `PrefixFinder`."""
        self._misses += 1
        if self._misses > PATIENCE and self._misses % LATER_EVERY:
            return None
        request = attempt.request
        front = self._front_of(request)
        sample = request.body[front + MIN_PREFIX_BYTES - _SAMPLE_BYTES : front + MIN_PREFIX_BYTES]
        if len(sample) < _SAMPLE_BYTES:
            return None
        prefix = attempt.prefix = Prefix(attempt)
        earlier = self._samples.get(sample)
        if earlier is None:
            self._samples.put(sample, prefix)
        if request.kind in self._system_behind:
            tail = request.body[-_SAMPLE_BYTES:]
            by_tail = self._samples.get(tail)
            if by_tail is None:
                self._samples.put(tail, prefix)
            earlier = earlier or by_tail
        if earlier is None:
            return None
        self._misses = 0
        shared = self._find_hashed(prefix, earlier)
        if shared is None and not earlier.is_indexed:  # it was answered before, and its body is gone
            prefix.warm_until_s = earlier.warm_until_s
            self._samples.put(sample, prefix)
        return shared

    def _find_hashed(self, prefix: Prefix, earlier: Prefix) -> Prefix | None:
        """Return the longest known prefix of the leader of `prefix`, which becomes its parent or takes its place."""
        if not earlier.is_indexed and earlier.leader is not None:
            self._index(earlier, earlier.leader)
        leader = prefix.leader
        if leader is None:
            return None
        shared = prefix.parent = self._index(prefix, leader)
        if shared is not None and not prefix.is_indexed:  # nothing in it is new
            leader.prefix, prefix.leader = shared, None
        return shared

    def _index(self, prefix: Prefix, leader: Attempt) -> Prefix | None:
        """Let the blocks of a line that are not known yet be those of `prefix`. Return the longest known prefix."""
        request = leader.request
        front, data = self._front_of(request), request.body
        if request.kind in self._system_behind and (moved := self._with_system_first(request)) is not data:
            front, data = 0, moved
        start = front + MIN_PREFIX_BYTES
        end = min(len(data), start + MAX_BLOCKS * BLOCK_BYTES)
        key = hash((request.model, request.path, self._tools_behind(request), data[front:start]))
        shared, shared_end = None, 0
        while True:
            known = self._blocks.get(key)
            if known is None:
                prefix.is_indexed = True
                self._blocks.put(key, prefix)
            elif not prefix.is_indexed:
                shared, shared_end = known, start
            if start + BLOCK_BYTES > end:
                break
            key = hash((key, data[start : start + BLOCK_BYTES]))
            start += BLOCK_BYTES
        if shared is not None and not shared.is_shared:
            shared.is_shared, shared.key = True, crc32(data[front:shared_end])
            shared.shared_bytes = shared_end - front
        return shared
