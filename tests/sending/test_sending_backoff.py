"""Backoff: exponential bounds, full jitter, a number of attempts."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import wait_fixed

from llmblast.sending import Backoff


class Highest(Random):
    """Draws the upper bound each time."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Lowest(Random):
    """Draws the lower bound each time."""

    def uniform(self, a: float, b: float) -> float:
        return a


def test_the_bound_doubles_up_to_a_minute() -> None:
    """Half a second after the first failed attempt."""
    backoff = Backoff(10, Highest())

    bounds = [backoff.retry_wait_s(attempts) for attempts in range(1, 10)]

    assert bounds == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_retry_may_go_at_once() -> None:
    """Full jitter starts at zero."""
    assert Backoff(5, Lowest()).retry_wait_s(4) == 0.0


@given(st.integers(1, 10_000), st.integers())
def test_waits_stay_within_their_bounds(attempts: int, seed: int) -> None:
    """Also after very many failures in a row."""
    backoff = Backoff(5, Random(seed))

    assert 0 <= backoff.retry_wait_s(attempts) <= min(0.5 * 2.0 ** min(attempts - 1, 100), 60)


def test_waits_are_spread_over_the_whole_bound() -> None:
    """A crowd that failed together does not come back together."""
    backoff = Backoff(5, Random(1))

    waits = [backoff.retry_wait_s(4) for _ in range(400)]

    assert all(any(tenth * 0.4 <= wait < (tenth + 1) * 0.4 for wait in waits) for tenth in range(10))


def test_the_same_seed_waits_the_same() -> None:
    """Randomness is injected."""
    one, other = (Backoff(5, Random(7)) for _ in range(2))

    assert [one.retry_wait_s(n) for n in range(1, 9)] == [other.retry_wait_s(n) for n in range(1, 9)]


@pytest.mark.parametrize(("attempts", "gives_up"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_it_gives_up_after_so_many_attempts(attempts: int, gives_up: bool) -> None:
    """Three sends, not three retries."""
    assert Backoff(3, Random(1)).gives_up(attempts) is gives_up


def test_a_single_attempt_is_never_repeated() -> None:
    """The smallest setting."""
    assert Backoff(1, Random(1)).gives_up(1)


def test_the_bounds_are_policy() -> None:
    """Any of tenacity's wait strategies may stand in."""
    backoff = Backoff(3, Highest(), retry_bound=wait_fixed(3))

    assert backoff.retry_wait_s(5) == 3
