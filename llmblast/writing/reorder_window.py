"""Reorder window: hold records back until those of all earlier lines are there. Pure state, without files.

A line takes 16 bytes here from the moment that it is read until its record leaves, in order. Records are in memory as
far as a budget allows, and else on disk, at the place that the window remembers.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from llmblast.models import Line, Request

_Identity = tuple[int, str, str | None, int]

MAX_LINES = 2_000_000
"""Lines that one late line may hold back; the reading of the input stops there."""
MAX_HELD_BYTES = 4 * 1024 * 1024
"""Records that stay in memory after they were written to disk, so that usual delays need no reading."""
_EXPECTED = -1
_WITHOUT_RECORD = -2
_ONLY_IN_MEMORY = -3
_FORGET_AFTER = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is on disk: `position` is for the file's own use."""

    position: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """A record on its way out: `place` if it was written to disk, `record` if it is in memory."""

    place: Place | None
    record: bytes | None


class ReorderWindow:
    """Take records in any order, and give them in the order in which their lines were expected."""

    def __init__(self) -> None:
        self.unwritten_bytes = 0
        self._first = 0
        """Ordinal of the line at index 0 of the arrays."""
        self._head = 0
        """Index of the first line whose record has not left."""
        self._positions = array("q")
        self._sizes = array("q")
        self._ordinals: dict[_Identity, list[int]] = {}
        """Lines without an outcome yet; equal lines share an entry."""
        self._memory: dict[int, bytes] = {}
        self._memory_bytes = 0
        self._unwritten: list[int] = []

    def __len__(self) -> int:
        """Return how many lines wait or are waited for."""
        return len(self._positions) - self._head

    @property
    def has_unwritten(self) -> bool:
        """Some records are in memory only."""
        return bool(self._unwritten)

    @property
    def is_ready(self) -> bool:
        """The next line has its outcome."""
        return self._head < len(self._positions) and self._positions[self._head] != _EXPECTED

    def expect(self, line: Line) -> None:
        """Give the next place in the order to a line."""
        ordinal = self._first + len(self._positions)
        self._positions.append(_EXPECTED)
        self._sizes.append(0)
        self._ordinals.setdefault(_identity_of(line), []).append(ordinal)

    def put(self, line: Line, record: bytes | None) -> bool:
        """Take the record of a line; None if it gets no record here. Return False for a line that is not expected."""
        identity = _identity_of(line)
        ordinals = self._ordinals.get(identity)
        if ordinals is None:
            return False
        ordinal = ordinals.pop(0)
        if not ordinals:
            del self._ordinals[identity]
        if record is None:
            self._positions[ordinal - self._first] = _WITHOUT_RECORD
            return True
        self._positions[ordinal - self._first] = _ONLY_IN_MEMORY
        self._memory[ordinal] = record
        self._memory_bytes += len(record)
        self._unwritten.append(ordinal)
        self.unwritten_bytes += len(record)
        return True

    def take_ready(self, max_bytes: int, *, with_gaps: bool = False, in_memory: bool = False) -> list[Held]:
        """Take out the next records in order, about `max_bytes` of them, up to the first line that is waited for.

        `with_gaps` goes beyond such lines, `in_memory` stops at the first record that is only on disk.
        """
        ready: list[Held] = []
        taken_bytes = 0
        while self._head < len(self._positions) and taken_bytes < max_bytes:
            position = self._positions[self._head]
            record = self._memory.get(self._first + self._head) if position != _EXPECTED else None
            if (position == _EXPECTED and not with_gaps) or (in_memory and position >= 0 and record is None):
                break
            if position >= 0 or record is not None:
                ready.append(self._take_out(self._head, record))
                taken_bytes += self._sizes[self._head] or len(record or b"")
            self._head += 1
        self._forget_taken()
        return ready

    def take_unwritten(self) -> tuple[list[int], list[bytes]]:
        """Return the ordinals and records that are in memory only and still held. They stay there."""
        ordinals = [ordinal for ordinal in self._unwritten if ordinal in self._memory]
        self._unwritten = []
        self.unwritten_bytes = 0
        return ordinals, [self._memory[ordinal] for ordinal in ordinals]

    def record_written(self, ordinals: Sequence[int], places: Sequence[Place]) -> list[Place]:
        """Note the places of records; beyond the budget they leave memory. Return those of records that have left."""
        gone: list[Place] = []
        for ordinal, place in zip(ordinals, places, strict=True):
            if ordinal not in self._memory:
                gone.append(place)
                continue
            self._positions[ordinal - self._first] = place.position
            self._sizes[ordinal - self._first] = place.size_bytes
            if self._memory_bytes > MAX_HELD_BYTES:
                self._memory_bytes -= len(self._memory.pop(ordinal))
        return gone

    def take_memory(self) -> list[Held]:
        """Take out all records in memory, in order, whatever lines are waited for."""
        ready: list[Held] = []
        for ordinal in sorted(self._memory):
            index = ordinal - self._first
            ready.append(self._take_out(index, self._memory[ordinal]))
            self._positions[index] = _WITHOUT_RECORD
        self._unwritten = []
        self.unwritten_bytes = 0
        return ready

    def _take_out(self, index: int, record: bytes | None) -> Held:
        """Return the record of the line at `index`, and forget its copy in memory."""
        position, size_bytes = self._positions[index], self._sizes[index]
        if record is not None:
            del self._memory[self._first + index]
            self._memory_bytes -= len(record)
        return Held(Place(position, size_bytes) if position >= 0 else None, record)

    def _forget_taken(self) -> None:
        if self._head >= _FORGET_AFTER and self._head * 2 >= len(self._positions):
            del self._positions[: self._head]
            del self._sizes[: self._head]
            self._first += self._head
            self._head = 0


def _identity_of(line: Line) -> _Identity:
    """Return what tells a line from those of other files, and one of its repeats from the others."""
    return line.number, line.key, line.file, line.repeat if isinstance(line, Request) else 0
