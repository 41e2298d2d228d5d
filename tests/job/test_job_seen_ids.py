"""Ids that stand twice are found in little memory, and a table that is full says so."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from llmblast.job.seen_ids import MIN_SLOTS, SeenIds


@given(st.lists(st.text(max_size=3)))
def test_the_first_line_of_each_id_is_kept(ids: list[str]) -> None:
    """Whatever the ids are."""
    seen = SeenIds()

    for number, identity in enumerate(ids):
        first = ids.index(identity)
        assert seen.first_line_of(identity, number) == (None if first == number else first)


def test_many_ids_are_kept() -> None:
    """The table grows with them."""
    seen = SeenIds()
    count = 3 * MIN_SLOTS

    assert [seen.first_line_of(f"request-{n}", n) for n in range(count)] == [None] * count
    assert [seen.first_line_of(f"request-{n}", 0) for n in range(count)] == list(range(count))
    assert not seen.is_full


def test_memory_is_bounded() -> None:
    """What does not fit is looked up, and not kept."""
    seen = SeenIds(max_slots=MIN_SLOTS)
    tracemalloc.start()
    for number in range(10 * MIN_SLOTS):
        seen.first_line_of(f"request-{number}", number)
    held_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert held_bytes < 10_000
    assert seen.is_full
    assert seen.first_line_of("request-7", 1) == 7
    assert seen.first_line_of(f"request-{9 * MIN_SLOTS}", 1) is None
