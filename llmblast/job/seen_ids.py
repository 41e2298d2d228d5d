"""Seen ids: find duplicate values of `custom_id` in bounded memory.

An open-addressing hash table of 64-bit hashes and line numbers: 12 bytes a slot, at most 96 MiB, for some six million
ids. Ids beyond are looked up, but not stored. In a file of that size, a hash collision has a probability of one in a
million.
"""

from array import array

MIN_SLOTS = 1 << 12
MAX_SLOTS = 1 << 23
_MAX_FILLED = 0.75
_MASK = (1 << 64) - 1


class SeenIds:
    """Ids with their first lines. `is_full` tells that some ids were not stored."""

    def __init__(self, max_slots: int = MAX_SLOTS) -> None:
        self.is_full = False
        self._max_slots = max_slots
        self._count = 0
        self._make_slots(min(MIN_SLOTS, max_slots))

    def first_line_of(self, identity: str, number: int) -> int | None:
        """Return the first line with this id, or None if the id is new; a new id is stored with its line `number`."""
        key = hash(identity) & _MASK or 1  # 0 marks an empty slot
        slot = self._slot_of(key)
        if self._keys[slot]:
            return self._numbers[slot]
        if self._count >= len(self._keys) * _MAX_FILLED:
            if len(self._keys) >= self._max_slots:
                self.is_full = True
                return None
            self._grow()
            slot = self._slot_of(key)
        self._keys[slot], self._numbers[slot] = key, min(number, 0xFFFFFFFF)
        self._count += 1
        return None

    def _slot_of(self, key: int) -> int:
        keys, mask = self._keys, len(self._keys) - 1
        slot = key & mask
        while keys[slot] and keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        kept = zip(self._keys, self._numbers, strict=True)
        self._make_slots(2 * len(self._keys))
        for key, number in kept:
            if key:
                slot = self._slot_of(key)
                self._keys[slot], self._numbers[slot] = key, number

    def _make_slots(self, count: int) -> None:
        self._keys = array("Q", bytes(8 * count))
        self._numbers = array("I", bytes(4 * count))
