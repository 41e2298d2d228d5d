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

_MARKER = b'{"key":"'
_KEY_DIGITS = 16
_KEY_END = len(_MARKER) + _KEY_DIGITS
_HEAD_BYTES = _KEY_END + 1
_BLOCK_BYTES = 256 * 1024
_GROUPS = 256
_MANY = 255


class CompletedKeys:
    """A multiset of keys that are taken off one by one. `len()` is the number of those left."""

    def __init__(self, groups: list[bytearray]) -> None:
        """`groups[n]` holds 8 bytes for each key that starts with byte n, in the order of the key's digits."""
        self._left = sum(map(len, groups)) // 8
        self._keys: list[array[int]] = []
        self._counts: list[bytearray] = []
        self._beyond: dict[int, int] = {}
        if not self._left:
            return  # most runs resume nothing; `consume` asks no group then
        for index, group in enumerate(groups):
            self._add_group(group)
            groups[index] = bytearray()

    @classmethod
    def scan(cls, paths: Iterable[str]) -> "CompletedKeys":
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
                    f"{path}: cannot be read to find the finished lines: {error.strerror}: "
                    "make it readable or name another file"
                ) from None
        return cls(groups)

    @classmethod
    def of_records(cls, records: Iterable[bytes]) -> "CompletedKeys":
        """Return the keys of single records; lines that are none are ignored."""
        groups = [bytearray() for _ in range(_GROUPS)]
        _add_keys(list(records), groups)
        return cls(groups)

    def __len__(self) -> int:
        return self._left

    def has_key_of(self, record: bytes) -> bool:
        """Whether the key that `record` starts with is left."""
        key = _key_in(record)
        return key is not None and self._find(int.from_bytes(key)) is not None

    def consume(self, key: str) -> bool:
        """Takes one occurrence of a key off; False if there is none left."""
        value = int(key, 16)
        index = self._find(value)
        if index is None:
            return False
        counts = self._counts[value >> 56]
        self._left -= 1
        if counts[index] == _MANY and self._beyond.get(value, 0):
            self._beyond[value] -= 1
        else:
            counts[index] -= 1
        return True

    def _find(self, value: int) -> int | None:
        """Where a key stands in its group, if it is left."""
        if not self._left:
            return None
        group = value >> 56
        keys = self._keys[group]
        index = bisect_left(keys, value)
        is_left = index < len(keys) and keys[index] == value and self._counts[group][index] > 0
        return index if is_left else None

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
    """Adds a file's keys to their groups. Of a line that goes on in the next block only the start is kept."""
    with open(path, "rb", buffering=0) as file:
        rest = b""
        while block := file.read(_BLOCK_BYTES):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()[:_HEAD_BYTES]
            _add_keys(lines, groups)
        _add_keys([rest], groups)


def _add_keys(lines: list[bytes], groups: list[bytearray]) -> None:
    """All keys of a block at once, where all of its lines are records; else one by one."""
    if all(line.startswith(_MARKER) and line[_KEY_END:_HEAD_BYTES] == b'"' for line in lines):
        try:
            keys = unhexlify(b"".join([line[len(_MARKER) : _KEY_END] for line in lines]))
        except ValueError:
            pass
        else:
            for start in range(0, len(keys), 8):
                groups[keys[start]] += keys[start : start + 8]
            return
    for line in lines:
        key = _key_in(line)
        if key is not None:
            groups[key[0]] += key


def _key_in(record: bytes) -> bytes | None:
    """The key that a line starts with, if it is a record."""
    if not record.startswith(_MARKER) or record[_KEY_END:_HEAD_BYTES] != b'"':
        return None
    try:
        return unhexlify(record[len(_MARKER) : _KEY_END])
    except ValueError:
        return None
