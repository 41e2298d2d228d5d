"""Sets of limits at high rates: crowds, stalls, lateness and what comes back, where all limits are asked together."""

import math
from collections import deque
from random import Random
from typing import NamedTuple

import pytest

from llmblast.models import NO_TOKENS, Tokens
from llmblast.scheduling import Breaker, Concurrency, LearnedRate, LimitSet, Rate, RequestRate
from tests.scheduling.scheduling_samples import most_within, tokens_of

START_S = 1000.0
HIGH = 1e6
ONE_TOKEN = tokens_of(1)


class Level(NamedTuple):
    """A set of limits and those in it that tests look at."""

    limits: LimitSet
    slots: Concurrency
    breaker: Breaker


def make_level(per_second: float = HIGH, tokens_per_s: float = 1e9, slots: int = 100_000) -> Level:
    concurrency, breaker = Concurrency("slots", slots), Breaker("breaker")
    rates = RequestRate("rps", per_second), Rate("tpm", tokens_per_s)
    limits = LimitSet(per_request=[breaker, rates[0]], slots=[concurrency], total=[rates[1]])
    return Level(limits, concurrency, breaker)


def send_evenly(limits: LimitSet, count: int, start_s: float = START_S, step_s: float = 100 / HIGH) -> None:
    """All of which are let go."""
    for number in range(count):
        assert limits.is_ready(ONE_TOKEN, start_s + number * step_s)
        limits.acquire(ONE_TOKEN, start_s + number * step_s)


def send_crowd(level: Level, tokens: Tokens, now: float) -> int:
    """How many are let go at once."""
    sent = 0
    while level.limits.is_ready(tokens, now):
        level.limits.acquire(tokens, now)
        sent += 1
    return sent


@pytest.mark.parametrize("seed", range(5))
def test_no_second_holds_more_than_the_rate_however_late_a_crowd_leaves(seed: int) -> None:
    """A crowd goes after every stall of 4 ms; for a while all leave 30 ms late."""
    random, per_second, stretch_s = Random(seed), 20_000, 3.0
    limits, now = make_level(per_second).limits, START_S
    late, left = deque[tuple[float, float]](), list[float]()
    late_from_s = START_S + random.uniform(0.0, 0.5)
    late_until_s = late_from_s + random.uniform(0.1, 0.5)
    while now < START_S + stretch_s:
        now += random.uniform(0.0038, 0.004)
        while late and late[0][0] <= now:
            left_s, sent_s = late.popleft()
            limits.record_late_departure(sent_s, left_s, 0.0)
            left.append(left_s)
        while limits.is_ready(NO_TOKENS, now):
            limits.acquire(NO_TOKENS, now)
            if late_from_s <= now < late_until_s:
                late.append((now + 0.03, now))
            else:
                left.append(now)

    assert 0.97 * stretch_s * per_second < len(left)
    assert most_within(sorted(left), 1.0) <= per_second


def test_what_is_learned_binds_beside_what_was_set() -> None:
    """Push-back has taught ten a second, far below the rate that was set."""
    limits = LimitSet(per_request=[RequestRate("rate", HIGH)])
    send_evenly(limits, 10)
    limits.add(LearnedRate("learned", learned_per_s=10))
    limits.acquire(ONE_TOKEN, START_S + 1)
    learned_s, learned = limits.last_ready(ONE_TOKEN, START_S + 1)

    assert learned.name == "learned"
    assert learned_s == pytest.approx(START_S + 1.1, abs=0.01)


def test_an_open_breaker_holds_back_at_once() -> None:
    """What is learned of an endpoint meanwhile counts at once."""
    level = make_level()
    send_evenly(level.limits, 10)
    level.breaker.trip(START_S + 1)
    is_held = not level.limits.is_ready(ONE_TOKEN, START_S + 1.9)

    assert is_held
    assert level.limits.last_ready(ONE_TOKEN, START_S + 1.9) == (START_S + 2, level.breaker)
    assert level.limits.is_ready(ONE_TOKEN, START_S + 5)


def test_full_slots_hold_back_until_a_release() -> None:
    """Slots are counted all the time, and a release lets the next one go."""
    level = make_level(slots=100)
    send_evenly(level.limits, 100)
    is_full, moment = level.slots.is_full, START_S + 1
    held = level.limits.last_ready(ONE_TOKEN, moment)
    was_ready = level.limits.is_ready(ONE_TOKEN, moment)
    level.limits.release(ONE_TOKEN, ONE_TOKEN, moment)

    assert is_full
    assert (held, was_ready) == ((math.inf, level.slots), False)
    assert level.limits.is_ready(ONE_TOKEN, moment)


def test_what_comes_back_while_credit_is_full_pays_for_no_more() -> None:
    """Credit is full, 2 ms of the rate, when a hundred give back all of it: two hundred go in a crowd, not three."""
    level, tokens, now = make_level(tokens_per_s=1e8), tokens_of(1000), START_S + 1
    for _ in range(100):
        level.limits.acquire(tokens, START_S)
    for _ in range(100):
        level.limits.release(tokens, NO_TOKENS, now)
    sent = send_crowd(level, tokens, now)

    assert 195 <= sent <= 202
    assert [used for _, used in level.limits.used()] == [100 + sent, pytest.approx(1000 * sent)]


def test_after_a_stall_no_more_go_than_the_window_has_room_for() -> None:
    """Of the second 30 are left; the pace alone would let more than twice as many go."""
    level = make_level(20_000)
    send_evenly(level.limits, 19_730, START_S, 0.9999 / 19_730)

    assert 0 < send_crowd(level, ONE_TOKEN, START_S + 1.0019) <= 30


def test_one_that_leaves_late_holds_up_none_of_those_behind_it() -> None:
    """A crowd is sent with the time of its beginning, while the moments at which it leaves go on."""
    level = make_level(tokens_per_s=1e8)
    send_evenly(level.limits, 10)
    now = START_S + 1
    for number in range(100):
        assert level.limits.is_ready(ONE_TOKEN, now)
        level.limits.acquire(ONE_TOKEN, now)
        level.limits.record_late_departure(now, now + number / 10_000, 0.0)

    assert level.limits.is_ready(ONE_TOKEN, now)


def test_what_was_on_its_way_for_long_counts_in_the_window() -> None:
    """Admitted five seconds ago, two hundred leave when the second has room for some 130 only."""
    per_second = 20_000
    level = make_level(per_second)
    send_evenly(level.limits, 200, START_S - 5)
    send_evenly(level.limits, 19_650, START_S, 0.9973 / 19_650)
    now = START_S + 1.0013
    limits = level.limits
    was_ready = limits.is_ready(ONE_TOKEN, now)
    for _ in range(200):
        limits.record_late_departure(START_S - 5, now, 0.0)

    assert was_ready
    assert not limits.is_ready(ONE_TOKEN, now)
