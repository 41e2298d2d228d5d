"""Sampling: choose N random lines of an input of any length, the same ones again for the same seed.

Each line gets a pseudo-random rank, the hash of its bytes under the seed, and those with the N lowest ranks are chosen.
So a resumed run chooses the same lines, even where the order of the input has changed. The texts of candidates go to a
file: only their places stay in memory.
"""

import tempfile
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from heapq import heappush, heapreplace
from typing import NamedTuple

_MEMORY_BYTES = 16 * 1024 * 1024
_EMIT_LINES = 1024
_EMIT_BYTES = 1024 * 1024


class _Candidate(NamedTuple):
    """A line among those with the lowest ranks. `rank` and `position` are negative: a heap has its lowest on top."""

    rank: int
    position: int
    number: int
    offset: int
    size_bytes: int
    special: bytes | None
    """The line itself if it is no plain text, such as a bad row."""


class Sampler:
    """Keep `count` of the lines that it gets."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._key = seed.to_bytes(8)
        self._heap: list[_Candidate] = []
        self._texts = tempfile.SpooledTemporaryFile(_MEMORY_BYTES, prefix="llmblast-")  # noqa: SIM115 -- `close`
        self._end = 0
        self._position = 0

    def add(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Offer lines. Raises OSError without space for a temporary file."""
        heap, key = self._heap, self._key
        for number, text in lines:
            self._position += 1
            rank = -int.from_bytes(blake2b(text, digest_size=8, key=key).digest())
            is_full = len(heap) >= self._count
            if is_full and (rank, -self._position) < heap[0][:2]:
                continue
            candidate = self._keep(rank, number, text)
            if is_full:
                heapreplace(heap, candidate)
            else:
                heappush(heap, candidate)

    @property
    def position(self) -> int:
        """Return the number of lines that were offered."""
        return self._position

    def chosen(self, first: int, last: int) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the chosen lines of those offered as number `first` to `last`, in their order, some at a time."""
        found = sorted((c for c in self._heap if first <= -c.position <= last), key=lambda c: -c.position)
        lines: list[tuple[int, bytes]] = []
        size_bytes = 0
        for candidate in found:
            lines.append((candidate.number, self._text_of(candidate)))
            size_bytes += candidate.size_bytes
            if len(lines) >= _EMIT_LINES or size_bytes >= _EMIT_BYTES:
                yield lines
                lines, size_bytes = [], 0
        yield lines

    def close(self) -> None:
        """Remove the temporary file."""
        self._texts.close()

    def _keep(self, rank: int, number: int, text: bytes) -> _Candidate:
        if type(text) is not bytes:
            return _Candidate(rank, -self._position, number, 0, 0, text)
        self._texts.seek(self._end)
        self._texts.write(text)
        candidate = _Candidate(rank, -self._position, number, self._end, len(text), None)
        self._end += len(text)
        return candidate

    def _text_of(self, candidate: _Candidate) -> bytes:
        if candidate.special is not None:
            return candidate.special
        self._texts.seek(candidate.offset)
        return self._texts.read(candidate.size_bytes)
