"""Passes: rates that are far from binding are not asked for each request, and let no more go than if they were."""

import math
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.records import NO_TOKENS, Tokens
from llmblast.scheduling import Concurrency, CoolDown, LearnedRate, LimitSet, Rate, RequestRate
from llmblast.scheduling.limit_set import FEWEST_SPARE
from tests.scheduling.scheduling_samples import most_within, tokens_of

START_S = 1000.0
ROUNDING_S = 1e-9
HIGH = 1e6
ONE_TOKEN = tokens_of(1)


class Level(NamedTuple):
    """A set of limits and those in it that tests look at."""

    limits: LimitSet
    requests: RequestRate
    tokens: Rate
    slots: Concurrency
    pause: CoolDown


class AskedRate(Rate):
    """Counts how often it is asked."""

    def __init__(self, name: str, per_second: float, burst_s: float = 0.0) -> None:
        super().__init__(name, per_second, burst_s)
        self.asked = self.asked_spare = 0

    def ready_at(self, cost: float, now: float) -> float:
        """As every other one."""
        self.asked += 1
        return super().ready_at(cost, now)

    def spare(self, now: float) -> float:
        """As every other one."""
        self.asked_spare += 1
        return super().spare(now)


class BareRate(RequestRate):
    """Never has anything to spare, so that there is no pass."""

    most_spare = 0.0


def make_level(
    per_second: float = HIGH,
    tokens_per_s: float = 1e9,
    slots: int = 100_000,
    burst_s: float = 0.0,
    kind: type[RequestRate] = RequestRate,
) -> Level:
    requests, tokens = kind("rps", per_second, burst_s), Rate("tpm", tokens_per_s, burst_s)
    concurrency, pause = Concurrency("slots", slots), CoolDown("pause")
    limits = LimitSet(per_request=[pause, requests], slots=[concurrency], total=[tokens])
    return Level(limits, requests, tokens, concurrency, pause)


def used_of(level: Level) -> list[float]:
    return [used for _, used in level.limits.used()]


def send_evenly(limits: LimitSet, count: int, start_s: float = START_S, step_s: float = 100 / HIGH) -> None:
    """All of which are let go."""
    for number in range(count):
        assert limits.is_ready(ONE_TOKEN, start_s + number * step_s)
        limits.take(ONE_TOKEN, start_s + number * step_s)


def send_crowd(level: Level, tokens: Tokens, now: float) -> int:
    """How many are let go at once."""
    sent = 0
    while level.limits.is_ready(tokens, now):
        level.limits.take(tokens, now)
        sent += 1
    return sent


class Step(NamedTuple):
    """What happens after a while, in this order; `ends` and `late` are of those in flight, `real` is a share."""

    after_s: float
    sends: int
    cost: float
    ends: int
    real: float
    late: int
    behind_s: float
    pause_s: float


class Twins:
    """Two sets to which the same happens: what the first one admits is taken from both."""

    def __init__(self, first: Level, second: Level) -> None:
        self.first = first
        self.second = second
        self.now = START_S
        self.in_flight: list[tuple[float, Tokens]] = []

    def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._happen(step)
            tokens = tokens_of(step.cost)
            for _ in range(step.sends):
                if self.first.limits.is_ready(tokens, self.now):
                    self.check_admitted(tokens)
                    self.in_flight.append((self.now, tokens))
                    for level in (self.first, self.second):
                        level.limits.take(tokens, self.now)
                else:
                    self.check_refused(tokens)

    def check_admitted(self, tokens: Tokens) -> None:
        """The other one would have done so, but for rounding."""
        assert self.second.limits.last_ready(tokens, self.now)[0] <= self.now + ROUNDING_S

    def check_refused(self, tokens: Tokens) -> None:
        """The other one may let more go."""

    def _happen(self, step: Step) -> None:
        self.now += step.after_s
        ended, self.in_flight = self.in_flight[: step.ends], self.in_flight[step.ends :]
        for level in (self.first, self.second):
            for sent_s, _ in self.in_flight[: step.late]:
                level.limits.left_late(sent_s, self.now, step.behind_s)
            for _, paid in ended:
                level.limits.release(paid, tokens_of(paid[0] * step.real), self.now)
            level.pause.pause(self.now + step.pause_s, self.now)


class EqualTwins(Twins):
    """Two sets that decide alike, to the last digit."""

    def check_admitted(self, tokens: Tokens) -> None:
        assert self.second.limits.is_ready(tokens, self.now)

    def check_refused(self, tokens: Tokens) -> None:
        assert self.first.limits.last_ready(tokens, self.now)[0] == self.second.limits.last_ready(tokens, self.now)[0]


STEPS = st.lists(
    st.builds(
        Step,
        after_s=st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 3e-3, 5e-3, 2.0]),
        sends=st.sampled_from([0, 1, 5, 40, 200]),
        cost=st.sampled_from([0.0, 10.0, 300.0, 1000.0]),
        ends=st.sampled_from([0, 1, 5, 40, 200]),
        real=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
        late=st.sampled_from([0, 0, 0, 3]),
        behind_s=st.sampled_from([0.0, 0.0, 0.005]),
        pause_s=st.sampled_from([-1.0, -1.0, -1.0, 0.0005]),
    ),
    min_size=5,
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([20_000.0, 50_000.0, 1e6]),
    st.sampled_from([2e7, 1e8, 1e12]),
    st.sampled_from([50, 300, 100_000]),
    st.sampled_from([0.0, 0.01]),
    STEPS,
)
def test_nothing_goes_that_would_not_have_gone_without_passes(
    per_second: float, tokens_per_s: float, slots: int, burst_s: float, steps: list[Step]
) -> None:
    """Whatever is sent, ends, gives back, is charged more, leaves late or is paused, and when."""
    options = (per_second, tokens_per_s, slots, burst_s)
    twins = Twins(make_level(*options), make_level(*options, BareRate))
    twins.play(steps)

    assert len(twins.in_flight) <= slots


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([1.0, 200.0, 9_000.0, 10_000.0]),
    st.sampled_from([1e5, 1e6, 1e12]),
    st.sampled_from([50, 100_000]),
    st.sampled_from([0.0, 0.01, 60.0]),
    STEPS,
)
def test_rates_of_up_to_ten_thousand_a_second_pace_as_without_passes(
    per_second: float, tokens_per_s: float, slots: int, burst_s: float, steps: list[Step]
) -> None:
    """However large the burst."""
    options = (per_second, tokens_per_s, slots, burst_s)
    twins = EqualTwins(make_level(*options), make_level(*options, BareRate))
    twins.play(steps)

    assert used_of(twins.first) == used_of(twins.second)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([20_000.0, 1e6]), st.sampled_from([1e8, 1e12]), st.sampled_from([300, 100_000]), STEPS)
def test_what_was_used_is_the_same_as_without_passes(
    per_second: float, tokens_per_s: float, slots: int, steps: list[Step]
) -> None:
    """Paid or owed, and whatever came back."""
    options = (per_second, tokens_per_s, slots, 0.0)
    twins = Twins(make_level(*options), make_level(*options, BareRate))
    twins.play(steps)

    assert used_of(twins.first) == pytest.approx(used_of(twins.second), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_second_holds_more_than_the_rate_however_late_a_crowd_leaves(seed: int) -> None:
    """A crowd goes after every stall of 4 ms, half of it in a pass; for a while all leave 30 ms late."""
    random, per_second, stretch_s = Random(seed), 20_000, 3.0
    limits, now = make_level(per_second).limits, START_S
    late, left = deque[tuple[float, float]](), list[float]()
    late_from_s = START_S + random.uniform(0.0, 0.5)
    late_until_s = late_from_s + random.uniform(0.1, 0.5)
    while now < START_S + stretch_s:
        now += random.uniform(0.0038, 0.004)
        while late and late[0][0] <= now:
            left_s, sent_s = late.popleft()
            limits.left_late(sent_s, left_s, 0.0)
            left.append(left_s)
        while limits.is_ready(NO_TOKENS, now):
            limits.take(NO_TOKENS, now)
            if late_from_s <= now < late_until_s:
                late.append((now + 0.03, now))
            else:
                left.append(now)

    assert 0.97 * stretch_s * per_second < len(left)
    assert most_within(sorted(left), 1.0) <= per_second


@pytest.mark.parametrize("kind", ["per_request", "total"])
def test_while_a_pass_lasts_no_rate_is_asked(kind: str) -> None:
    """Of 10,000 requests at a hundredth of the rate not one in a hundred asks."""
    rate = AskedRate("rate", HIGH)
    send_evenly(LimitSet(**{kind: [rate]}), 10_000)

    assert rate.asked < 100


def test_a_rate_of_ten_thousand_a_second_has_no_pass_however_large_its_burst() -> None:
    """Ten thousand that go at once ask each time; what a pass is made of is never enough for one."""
    rate = AskedRate("rate", 10_000, burst_s=60)
    send_evenly(LimitSet(per_request=[rate]), 10_000, step_s=0.0)

    assert rate.asked == 10_000
    assert rate.most_spare < FEWEST_SPARE
    assert RequestRate("rps", 10_000, burst_s=60).most_spare < FEWEST_SPARE


@pytest.mark.parametrize("kind", ["prompt", "output"])
def test_where_only_a_part_of_the_tokens_is_limited_every_request_asks(kind: str) -> None:
    """A pass counts all tokens in one sum, which says nothing of its parts."""
    rate = AskedRate("rate", HIGH)
    send_evenly(LimitSet(**{kind: [rate]}), 100)

    assert rate.asked == 100


def test_what_is_learned_is_asked_each_time_and_the_others_are_not() -> None:
    """Push-back has taught ten a second while a pass was on."""
    rate = AskedRate("rate", HIGH)
    limits = LimitSet(per_request=[rate])
    send_evenly(limits, 10)
    limits.add(LearnedRate("learned", 10, START_S + 1), START_S + 1)
    owed = rate.used
    limits.take(ONE_TOKEN, START_S + 1)
    learned_s, learned = limits.last_ready(ONE_TOKEN, START_S + 1)
    before = rate.asked
    send_evenly(limits, 100, START_S + 2, step_s=1.0)

    assert owed == 10
    assert learned.name == "learned"
    assert learned_s == pytest.approx(START_S + 1.1, abs=0.01)
    assert rate.asked - before < 10


def test_a_pass_is_no_way_past_a_pause() -> None:
    """A rate-limit reply that comes meanwhile counts at once."""
    level = make_level()
    send_evenly(level.limits, 10)
    level.pause.pause(START_S + 5, START_S + 1)
    is_held = not level.limits.is_ready(ONE_TOKEN, START_S + 4.9)

    assert is_held
    assert level.limits.last_ready(ONE_TOKEN, START_S + 4.9) == (START_S + 5, level.pause)
    assert level.limits.is_ready(ONE_TOKEN, START_S + 5)


def test_a_pass_is_no_way_past_full_slots() -> None:
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


def test_what_comes_back_in_a_pass_does_not_pay_for_more_than_credit_would() -> None:
    """Credit is full, 2 ms of the rate, when a hundred give back all of it: two hundred go in a crowd, not three."""
    level, tokens, now = make_level(tokens_per_s=1e8), tokens_of(1000), START_S + 1
    for _ in range(100):
        level.limits.take(tokens, START_S)
    begins_pass = level.limits.is_ready(tokens, now)
    for _ in range(100):
        level.limits.release(tokens, NO_TOKENS, now)
    sent = send_crowd(level, tokens, now)

    assert begins_pass
    assert 195 <= sent <= 202
    assert used_of(level) == [100 + sent, pytest.approx(1000 * sent)]


def test_what_had_come_back_before_a_pass_is_not_used_twice() -> None:
    """One gave 100,000 back, on top of full credit; those that use it in a pass give back all of it as well."""
    crowds = []
    for kind in (RequestRate, BareRate):
        level, tokens, now = make_level(tokens_per_s=1e8, kind=kind), tokens_of(3000), START_S + 2
        level.limits.take(tokens_of(100_000), START_S)
        level.limits.release(tokens_of(100_000), NO_TOKENS, START_S + 1)
        for _ in range(30):
            assert level.limits.is_ready(tokens, now)
            level.limits.take(tokens, now)
        for _ in range(30):
            level.limits.release(tokens, NO_TOKENS, now)
        crowds.append(send_crowd(level, tokens, now))

    assert 60 < crowds[0] <= crowds[1]


def test_a_pass_holds_no_more_than_the_window_has_room_for() -> None:
    """Of the second 30 are left; after a stall the pace alone would let more than twice as many go."""
    crowds = []
    for kind in (RequestRate, BareRate):
        level = make_level(20_000, kind=kind)
        send_evenly(level.limits, 19_730, START_S, 0.9999 / 19_730)
        crowds.append(send_crowd(level, ONE_TOKEN, START_S + 1.0019))

    assert 0 < crowds[0] <= crowds[1] <= 30


def test_who_is_held_back_by_something_else_ends_no_pass() -> None:
    """One slot, which is asked for in vain before every release."""
    rate, now = AskedRate("rate", HIGH), START_S
    limits = LimitSet(slots=[Concurrency("slots", 1)], per_request=[rate])
    send_evenly(limits, 1)
    for number in range(1000):
        now = START_S + number * 100 / HIGH
        limits.last_ready(ONE_TOKEN, now)
        limits.release(ONE_TOKEN, ONE_TOKEN, now)
        send_evenly(limits, 1, now)

    assert rate.asked < 10


def test_a_pass_that_was_refused_is_not_asked_for_again_at_once() -> None:
    """Requests are so large that the rate never has enough to spare: looking each time costs more than it brings."""
    rate = AskedRate("rate", 1e8)
    limits = LimitSet(total=[rate])
    for number in range(100):
        now = START_S + number / 10_000
        assert limits.is_ready(tokens_of(10_000), now)
        limits.take(tokens_of(10_000), now)

    assert rate.asked_spare <= 11


def test_one_that_leaves_late_holds_up_none_of_those_behind_it() -> None:
    """A crowd is sent with the time of its beginning, while the moments at which it leaves go on."""
    level = make_level(tokens_per_s=1e8)
    send_evenly(level.limits, 10)
    now = START_S + 1
    for number in range(100):
        assert level.limits.is_ready(ONE_TOKEN, now)
        level.limits.take(ONE_TOKEN, now)
        level.limits.left_late(now, now + number / 10_000, 0.0)

    assert level.limits.is_ready(ONE_TOKEN, now)


def test_what_was_on_its_way_for_long_counts_in_the_window_though_a_pass_is_on() -> None:
    """Admitted five seconds ago, a hundred leave when the second has room for some 80 only."""
    per_second = 20_000
    level = make_level(per_second)
    send_evenly(level.limits, 100, START_S - 5)
    send_evenly(level.limits, 19_650, START_S, 0.9973 / 19_650)
    now = START_S + 1.0013
    limits = level.limits
    was_ready = limits.is_ready(ONE_TOKEN, now)
    for _ in range(100):
        limits.left_late(START_S - 5, now, 0.0)

    assert was_ready
    assert not limits.is_ready(ONE_TOKEN, now)
