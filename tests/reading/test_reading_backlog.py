"""Lines that wait on disk come back in their order, whatever came and went in between."""

import sqlite3
from collections.abc import Iterator
from itertools import islice
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.errors import OutputFailedError
from llmblast.models import Terms
from llmblast.reading.backlog import LAST, Backlog, WaitingLine

NOW_S = 100.0
TERMS = st.builds(
    Terms,
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([inf, 90.0, 95.5, 100.0, 101.0, 150.0]),
    st.sampled_from(["", "a", "b"]),
)


def place_of(line: WaitingLine) -> tuple[int, int, float, int]:
    """Higher priority, what can still be met, what is late, what has no deadline; then deadline and input order."""
    deadline_s = line.terms.deadline_s
    kind = 2 if deadline_s == inf else 1 if deadline_s < NOW_S else 0
    return -line.terms.priority, kind, deadline_s, line.number


@given(st.lists(st.tuples(st.lists(TERMS, max_size=8), st.integers(0, 12)), max_size=8))
def test_lines_come_back_in_their_order(steps: list[tuple[list[Terms], int]]) -> None:
    """Those of each class and tenant by themselves, with all that they were added with."""
    lines, waiting, numbers = Backlog(), list[WaitingLine](), iter(range(10**6))
    for terms, count in steps:
        counted = zip(islice(numbers, len(terms)), terms, strict=True)
        added = [WaitingLine(1, number, f"{number:016x}", b"x" * number, each) for number, each in counted]
        lines.add(added)
        waiting += added
        for part in list(lines.parts.values()):
            mine = [line for line in waiting if lines.part_of(line.terms) is part]
            expected = sorted(mine, key=place_of)[:count]

            assert lines.take(part, NOW_S, count) == expected

            waiting = [line for line in waiting if line not in expected]
            on_time = [line.order for line in waiting if lines.part_of(line.terms) is part and place_of(line)[1] != 1]
            assert part.first == min(on_time, default=LAST)
    assert (len(lines), bool(lines)) == (len(waiting), bool(waiting))
    assert lines.size_bytes == sum(len(line.text) for line in waiting)
    assert sum(map(lines.parts_of, (False, True))) == sum(map(bool, lines.parts.values()))
    lines.close()


def test_a_full_disk_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that waits has no record: the same command goes on."""
    lines = Backlog()
    lines._database.execute("PRAGMA max_page_count = 40")
    monkeypatch.setenv("SQLITE_TMPDIR", "/mnt/small")

    with pytest.raises(OutputFailedError, match=r"^/mnt/small: .* database or disk is full: set TMPDIR to a folder"):
        lines.add([WaitingLine(0, number, "0" * 16, b"x" * 4000, Terms(True)) for number in range(100)])
    lines.close()


def test_a_folder_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is read-only."""

    def fail(*_: object, **__: object) -> Iterator[None]:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", fail)

    with pytest.raises(OutputFailedError, match="unable to open database file"):
        Backlog()
