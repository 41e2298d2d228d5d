"""Seen ids: tells a `custom_id` that stands twice, in bounded memory.

An open-addressing hash table of 64-bit hashes and line numbers: 12 bytes a place, growing with the file to 96 MiB at
most, for some six million ids. Later ids are looked up and no longer kept. Two different ids have the same hash in one
of a million files of that size.
"""

from array import array

MIN_PLACES = 1 << 12
MAX_PLACES = 1 << 23
_MAX_FILLED = 0.75
_MASK = (1 << 64) - 1


class SeenIds:
    """Ids and the lines on which they stood first. `is_full` says that ids were left out."""

    def __init__(self, max_places: int = MAX_PLACES) -> None:
        self.is_full = False
        self._max_places = max_places
        self._count = 0
        self._make_places(min(MIN_PLACES, max_places))

    def first_line_of(self, identity: str, number: int) -> int | None:
        """Return the line on which the id stood before; else keep it with its line `number` and return None."""
        key = hash(identity) & _MASK or 1  # 0 is an empty place
        place = self._place_of(key)
        if self._keys[place]:
            return self._numbers[place]
        if self._count >= len(self._keys) * _MAX_FILLED:
            if len(self._keys) >= self._max_places:
                self.is_full = True
                return None
            self._grow()
            place = self._place_of(key)
        self._keys[place], self._numbers[place] = key, min(number, 0xFFFFFFFF)
        self._count += 1
        return None

    def _place_of(self, key: int) -> int:
        keys, mask = self._keys, len(self._keys) - 1
        place = key & mask
        while keys[place] and keys[place] != key:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        kept = zip(self._keys, self._numbers, strict=True)
        self._make_places(2 * len(self._keys))
        for key, number in kept:
            if key:
                place = self._place_of(key)
                self._keys[place], self._numbers[place] = key, number

    def _make_places(self, count: int) -> None:
        self._keys = array("Q", bytes(8 * count))
        self._numbers = array("I", bytes(4 * count))
