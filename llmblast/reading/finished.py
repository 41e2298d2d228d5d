"""What earlier runs have finished: a compact multiset of keys, read from the starts of the lines of record files.

A key is kept in 8 bytes and its count in one. Keys are grouped by their first byte while they are read, so that sorting
the 256 groups one after the other never needs more than one group's worth of Python integers.
"""

import sys
from array import array
from binascii import unhexlify
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from llmblast.errors import OutputBlockedError

_MARKER = b'\n{"key":"'
_KEY_DIGITS = 16
_MATCH_BYTES = len(_MARKER) + _KEY_DIGITS + 1
_BLOCK_BYTES = 1024 * 1024
_GROUPS = 256
_MANY = 255


class Finished:
    """A multiset of keys that are taken off one by one. `len()` is the number of those left."""

    def __init__(self, groups: list[bytearray]) -> None:
        """`groups[n]` holds 8 bytes for each key that starts with byte n, in the order of the key's digits."""
        self._left = sum(map(len, groups)) // 8
        self._keys: list[array[int]] = []
        self._counts: list[bytearray] = []
        self._beyond: dict[int, int] = {}
        if not self._left:
            return  # most runs resume nothing; `take` asks no group then
        for index, group in enumerate(groups):
            self._add_group(group)
            groups[index] = bytearray()

    @classmethod
    def scan(cls, paths: Iterable[str]) -> "Finished":
        """Reads record files; one that does not exist holds none. Blocks: call it in a thread from a coroutine.

        A record is a line that starts with `{"key":"` and 16 hex digits; all other lines are ignored. A torn last line
        has to be mended before. Raises OutputBlockedError for a file that cannot be read.
        """
        groups = [bytearray() for _ in range(_GROUPS)]
        for path in paths:
            try:
                _scan_file(path, groups)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise OutputBlockedError(
                    f"{path}: cannot be read to see what is finished: {error.strerror}. "
                    "Make it readable or name another."
                ) from None
        return cls(groups)

    def __len__(self) -> int:
        return self._left

    def take(self, key: str) -> bool:
        """Takes one occurrence of a key off; False if there is none left."""
        if not self._left:
            return False
        value = int(key, 16)
        group = value >> 56
        keys = self._keys[group]
        index = bisect_left(keys, value)
        if index == len(keys) or keys[index] != value:
            return False
        counts = self._counts[group]
        if not counts[index]:
            return False
        self._left -= 1
        if counts[index] == _MANY and self._beyond.get(value, 0):
            self._beyond[value] -= 1
        else:
            counts[index] -= 1
        return True

    def _add_group(self, group: bytearray) -> None:
        values = array("Q")
        values.frombytes(group)
        if sys.byteorder == "little":
            values.byteswap()
        occurrences = Counter(values)
        keys = array("Q", sorted(occurrences))
        if len(keys) == len(values):
            counts = bytearray(b"\1") * len(keys)
        else:
            counts = bytearray(min(occurrences[key], _MANY) for key in keys)
            self._beyond.update({key: count - _MANY for key, count in occurrences.items() if count > _MANY})
        self._keys.append(keys)
        self._counts.append(counts)


def _scan_file(path: str, groups: list[bytearray]) -> None:
    """Adds a file's keys to their groups. A match that a block cuts is found again behind the next one's front."""
    with open(path, "rb", buffering=0) as file:
        data = b"\n"
        while block := file.read(_BLOCK_BYTES):
            data += block
            end = len(data) - _MATCH_BYTES
            at = data.find(_MARKER)
            while 0 <= at <= end:
                _add_key(data[at + len(_MARKER) : at + _MATCH_BYTES], groups)
                at = data.find(_MARKER, at + len(_MARKER))
            data = data[1 - _MATCH_BYTES :]


def _add_key(digits_and_quote: bytes, groups: list[bytearray]) -> None:
    if digits_and_quote[_KEY_DIGITS] != ord('"'):
        return
    try:
        key = unhexlify(digits_and_quote[:_KEY_DIGITS])
    except ValueError:
        return
    groups[key[0]] += key
