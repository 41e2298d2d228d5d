"""Completed keys: a compact multiset of the keys in the records of earlier runs.

A key takes 8 bytes and its count one. While keys are read, they are grouped by their first byte: sorting the 256 groups
one by one needs Python integers for one group only.

With `--repeat`, the records of a line have the same key and a `repeat` each. Here each repeat has a key of its own, so
that a later run finds out which of them are missing. That of the first is the line's.
"""

import re
import sys
from array import array
from binascii import unhexlify
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

from llmblast.errors import OutputBlockedError

_MARKER = b'{"key":"'
_KEY_DIGITS = 16
_KEY_END = len(_MARKER) + _KEY_DIGITS
_KEY_BYTES = _KEY_DIGITS // 2
_QUOTED_END = _KEY_END + 1
_REPEAT = b',"repeat":'
_REPEAT_OF = re.compile(rb',"line":\d+,"repeat":(\d{1,9}),')
"""What follows the key and its quote in the record of a repeat."""
_HEAD_BYTES = 96
"""Bytes that have the key and the repeat of any record."""
_BLOCK_BYTES = 256 * 1024
_GROUPS = 256
_MANY = 255


def key_of_repeat(key: str, repeat: int) -> str:
    """Return the key that a repeat of a line has in `CompletedKeys`."""
    return key if repeat <= 1 else _mix(unhexlify(key), repeat).hex()


class CompletedKeys:
    """A multiset of keys to consume one by one. `len()` is the number of keys left."""

    def __init__(self, groups: list[bytearray]) -> None:
        """Take over `groups`: `groups[n]` holds 8 bytes, big-endian, of each key that starts with byte n."""
        self._left = sum(map(len, groups)) // 8
        self._keys: list[array[int]] = []
        self._counts: list[bytearray] = []
        self._beyond: dict[int, int] = {}
        if not self._left:
            return  # most runs resume nothing
        for index, group in enumerate(groups):
            self._add_group(group)
            groups[index] = bytearray()

    @classmethod
    def scan(cls, paths: Iterable[str]) -> "CompletedKeys":
        """Return the keys in record files; files that do not exist are skipped. Blocks: call this in a thread.

        A record is a line that starts with `{"key":"` and 16 hex digits; other lines are ignored. A torn last line
        must be repaired before. Raises OutputBlockedError for a file that cannot be read.
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
        """Return the keys of single records; other lines are ignored."""
        groups = [bytearray() for _ in range(_GROUPS)]
        _add_keys(list(records), groups)
        return cls(groups)

    def __len__(self) -> int:
        return self._left

    def __bool__(self) -> bool:
        return self._left > 0

    def has_key_of(self, record: bytes) -> bool:
        """Return whether the key of a record is left."""
        key = _key_in(record)
        return key is not None and self._find(int.from_bytes(key)) is not None

    def consume_record(self, record: bytes) -> bool:
        """Remove one occurrence of the key of a record; return False if none is left."""
        key = _key_in(record)
        return key is not None and self.consume(key.hex())

    def consume(self, key: str) -> bool:
        """Remove one occurrence of a key; return False if none is left."""
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
        """Return the index of a key in its group, if the key is left."""
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
    """Add the keys of a file to their groups. Keep only the start of a line that continues in the next block."""
    with open(path, "rb", buffering=0) as file:
        rest = b""
        while block := file.read(_BLOCK_BYTES):
            block = rest + block
            lines = block.split(b"\n")
            rest = lines.pop()[:_HEAD_BYTES]
            _add_keys(lines, groups, may_repeat=_REPEAT in block)
        _add_keys([rest], groups)


def _add_keys(lines: list[bytes], groups: list[bytearray], *, may_repeat: bool = True) -> None:
    """Add the keys of a block at once if all its lines are records and none is of a repeat, else one by one."""
    if not may_repeat and all(line.startswith(_MARKER) and line[_KEY_END:_QUOTED_END] == b'"' for line in lines):
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
    """Return the key of a line, if the line is a record; that of its repeat if it has one."""
    if not record.startswith(_MARKER) or record[_KEY_END:_QUOTED_END] != b'"':
        return None
    try:
        key = unhexlify(record[len(_MARKER) : _KEY_END])
    except ValueError:
        return None
    repeat = _REPEAT_OF.match(record, _QUOTED_END)
    return key if repeat is None else _mix(key, int(repeat[1]))


def _mix(key: bytes, repeat: int) -> bytes:
    """Return 8 bytes that differ for each repeat of a key; the key itself for the first."""
    if repeat <= 1:
        return key
    return blake2b(key, digest_size=_KEY_BYTES, salt=repeat.to_bytes(_KEY_BYTES)).digest()
