"""Backlog: lines that were read ahead and wait on disk, in the order in which they have to go.

It is a temporary database of SQLite without a name, which is gone with the process: a line in it has no record yet, so
a run that goes on reads it again. Its size in memory is bounded by the cache of its pages.

The lines of one class and tenant are a part: the higher priority first, then the earliest deadline that can still be
met, then what is too late, then what has no deadline, each in the order of the input.
"""

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf, nextafter
from typing import Final, NamedTuple

from llmblast.errors import OutputFailedError
from llmblast.models import Terms

CACHE_KIB: Final = 8 * 1024
_SETUP: Final = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA temp_store = FILE;
    PRAGMA cache_size = -{CACHE_KIB};
    CREATE TABLE lines (
        id INTEGER PRIMARY KEY, part INTEGER, priority INTEGER, deadline REAL, place INTEGER,
        number INTEGER, key TEXT, text BLOB
    );
    CREATE INDEX by_order ON lines (part, priority, deadline, place);
"""
_MAX: Final = sys.float_info.max
"""The last deadline there can be."""
_PLACE_BITS: Final = 40
"""A place is the number of the input, and in so many bits the number of the line in it."""
_LAST_NUMBER: Final = (1 << _PLACE_BITS) - 1

Order = tuple[int, float, int]
"""Priority, negated, deadline and place of a line: the lowest goes first."""
LAST: Final[Order] = (10**18, inf, 0)


class WaitingLine(NamedTuple):
    """A line that waits. `source` is the number of its input."""

    source: int
    number: int
    key: str
    text: bytes
    terms: Terms

    @property
    def order(self) -> Order:
        """Return when the line goes, compared with others of its class and tenant."""
        return (
            -self.terms.priority,
            self.terms.deadline_s,
            (self.source << _PLACE_BITS) + min(self.number, _LAST_NUMBER),
        )


class Part:
    """The lines of one class and tenant that wait on disk. `first` is the order of the first one that is not late."""

    __slots__ = ("counts", "first", "index", "is_deferred", "tenant")

    def __init__(self, index: int, is_deferred: bool, tenant: str) -> None:
        self.index = index
        self.is_deferred = is_deferred
        self.tenant = tenant
        self.first = LAST
        self.counts: dict[int, int] = {}
        """Number of lines by their priorities; none is 0."""

    def __bool__(self) -> bool:
        return bool(self.counts)


class Backlog:
    """The lines that wait. All calls block for a short time. Raises OutputFailedError, as for a full disk."""

    def __init__(self) -> None:
        self.parts: dict[tuple[bool, str], Part] = {}
        self.size_bytes = 0
        """Size of the lines that wait."""
        self._active = [0, 0]
        """Parts with lines: immediate ones, deferred ones."""
        with _explained():
            self._database = sqlite3.connect("", isolation_level=None)
            self._database.executescript(_SETUP)

    def __bool__(self) -> bool:
        return any(self._active)

    def __len__(self) -> int:
        return sum(sum(part.counts.values()) for part in self.parts.values())

    def parts_of(self, is_deferred: bool) -> int:
        """Return how many parts of a class have lines."""
        return self._active[is_deferred]

    def part_of(self, terms: Terms) -> Part:
        """Return the part for lines with these terms."""
        key = (terms.is_deferred, terms.tenant)
        part = self.parts.get(key)
        if part is None:
            part = self.parts[key] = Part(len(self.parts), *key)
        return part

    def add(self, lines: Iterable[WaitingLine]) -> None:
        """Keep lines."""
        rows = []
        for line in lines:
            part, terms = self.part_of(line.terms), line.terms
            order = line.order
            part.first = min(part.first, order)
            self._active[part.is_deferred] += not part
            part.counts[terms.priority] = part.counts.get(terms.priority, 0) + 1
            self.size_bytes += len(line.text)
            rows.append((part.index, terms.priority, terms.deadline_s, order[2], line.number, line.key, line.text))
        with _explained():
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO lines (part, priority, deadline, place, number, key, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._database.execute("COMMIT")

    def take(self, part: Part, answered_s: float, count: int) -> list[WaitingLine]:
        """Remove and return so many lines of a part, those that go first.

        `answered_s` is when a line that is sent now will have its answer, in wall clock: what has to be there before is
        late.
        """
        taken: list[WaitingLine] = []
        for priority in sorted(part.counts, reverse=True):
            for deadlines in _in_order(answered_s):
                if len(taken) < count and priority in part.counts:
                    taken += self._take(part, priority, deadlines, count - len(taken))
        part.first = self._first_of(part, answered_s)
        return taken

    def close(self) -> None:
        """Remove all lines."""
        self._database.close()

    def _take(self, part: Part, priority: int, deadlines: tuple[float, float], count: int) -> list[WaitingLine]:
        """Remove and return the first lines of one priority with deadlines from the first moment to the second one."""
        with _explained():
            rows = self._database.execute(
                "SELECT id, place, number, key, text, deadline FROM lines WHERE part = ? AND priority = ? "
                "AND deadline >= ? AND deadline <= ? ORDER BY deadline, place LIMIT ?",
                (part.index, priority, *deadlines, count),
            ).fetchall()
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM lines WHERE id = ?", [row[:1] for row in rows])
            self._database.execute("COMMIT")
        left = part.counts[priority] - len(rows)
        if left:
            part.counts[priority] = left
        else:
            del part.counts[priority]
            self._active[part.is_deferred] -= not part
        terms: dict[float, Terms] = {}
        for row in rows:
            if row[5] not in terms:
                terms[row[5]] = Terms(part.is_deferred, priority, row[5], part.tenant)
            self.size_bytes -= len(row[4])
        return [WaitingLine(row[1] >> _PLACE_BITS, row[2], row[3], row[4], terms[row[5]]) for row in rows]

    def _first_of(self, part: Part, answered_s: float) -> Order:
        for priority in sorted(part.counts, reverse=True):
            with _explained():
                row = self._database.execute(
                    "SELECT deadline, place FROM lines WHERE part = ? AND priority = ? AND deadline >= ? "
                    "ORDER BY deadline, place LIMIT 1",
                    (part.index, priority, answered_s),
                ).fetchone()
            if row is not None:
                return -priority, row[0], row[1]
        return LAST


def _in_order(answered_s: float) -> tuple[tuple[float, float], ...]:
    """Return the first and last deadlines of what can still be met, of what is late, and of what has none."""
    return (answered_s, _MAX), (-inf, nextafter(answered_s, -inf)), (inf, inf)


@contextmanager
def _explained() -> Iterator[None]:
    """Raise OutputFailedError for an error of the database."""
    try:
        yield
    except sqlite3.Error as error:
        folder = os.environ.get("SQLITE_TMPDIR") or tempfile.gettempdir()
        raise OutputFailedError(
            f"{folder}: lines that were read ahead cannot wait on disk there: {error}: set TMPDIR to a folder with "
            "more room, and run the same command again to go on"
        ) from None
