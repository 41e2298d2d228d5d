"""A server with slots: throughput peaks when they are full."""

import pytest

from llmblast.mocking.capacity import slowdown


def test_within_the_slots_nothing_is_slower() -> None:
    """Nor where none are set."""
    assert [slowdown(number, 32, 0.3) for number in (1, 31, 32)] == [1, 1, 1]
    assert slowdown(10_000, None, 0.3) == 1


@pytest.mark.parametrize("overload", [0.1, 0.3, 1.0])
def test_throughput_rises_to_the_slots_and_falls_beyond(overload: float) -> None:
    """Requests in flight over the time of each."""
    throughput = {number: number / slowdown(number, 32, overload) for number in range(1, 200)}

    assert max(throughput, key=lambda number: throughput[number]) == 32
    assert throughput[64] == pytest.approx(32 * 0.5**overload)


def test_without_overload_throughput_stays() -> None:
    """The queue only gets longer."""
    assert 64 / slowdown(64, 32, 0) == 32
