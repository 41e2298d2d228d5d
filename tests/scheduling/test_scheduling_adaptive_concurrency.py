"""Adaptive concurrency: open soon, a full server at its best, a server that scales untouched whatever latencies are."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random

import pytest

from llmblast.mocking.capacity import slowdown
from llmblast.scheduling import AdaptiveConcurrency
from llmblast.scheduling.latency_sample import LatencySample

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

LATENCY_S = 0.1
SLOTS = 32
BEST_PER_S = SLOTS / LATENCY_S
SETTLED_S = 10.0
RUN_SLOTS = 256
LLM_LATENCY_S = 5.0


def free_slots(window: AdaptiveConcurrency) -> int:
    """How many more may be in flight; below zero where there are fewer slots than there were."""
    return int(window._slots - window._taken)


def jitter(seed: int = 1) -> Callable[[], float]:
    """A tenth of a second, 20 % up and down."""
    random = Random(seed)
    return lambda: LATENCY_S * random.uniform(0.8, 1.2)


def log_normal(seed: int = 1) -> Callable[[], float]:
    """Five seconds in the mean, with sigma 1: as many LLM workloads have it."""
    random = Random(seed)
    return lambda: LLM_LATENCY_S * random.lognormvariate(-0.5, 1.0)


def cold(service_s: Callable[[], float], requests: int = 64) -> Callable[[], float]:
    """The first of them take three times as long."""
    numbers = count()
    return lambda: service_s() * (3.0 if next(numbers) < requests else 1.0)


class Server:
    """One that knows how long a request will take as it comes in, as a queue does, or the mock provider."""

    def __init__(self, service_s: Callable[[], float], slowdown_of: Callable[[int, float], float]) -> None:
        self.in_flight = 0
        self._service_s = service_s
        self._slowdown_of = slowdown_of
        self._flights: list[tuple[float, int, float]] = []
        self._order = count()

    def send(self, now: float) -> None:
        self.in_flight += 1
        done = self._work(now, self._service_s())
        heapq.heappush(self._flights, (done, next(self._order), now))

    def next_s(self) -> float:
        """When the next answer comes."""
        return self._flights[0][0] if self._flights else math.inf

    def answer(self) -> tuple[float, float]:
        """Now, and when the request that is answered was sent."""
        now = self.next_s()
        sent_s = heapq.heappop(self._flights)[2]
        self.in_flight -= 1
        return now, sent_s

    def _work(self, now: float, service_s: float) -> float:
        return now + service_s * self._slowdown_of(self.in_flight, now)


class SharedServer(Server):
    """One that works on all at once, so that each goes slower with every other that comes, as a GPU's batch does."""

    def __init__(self, service_s: Callable[[], float], slowdown_of: Callable[[int, float], float]) -> None:
        super().__init__(service_s, slowdown_of)
        self._now = self._worked_s = 0.0

    def send(self, now: float) -> None:
        self._advance(now)
        super().send(now)

    def next_s(self) -> float:
        """The work that each has had grows evenly; the least that is asked for is done first."""
        least_s = super().next_s()
        return self._now + (least_s - self._worked_s) * self._slowdown() if self._flights else math.inf

    def answer(self) -> tuple[float, float]:
        self._advance(self.next_s())
        sent_s = heapq.heappop(self._flights)[2]
        self.in_flight -= 1
        return self._now, sent_s

    def _work(self, now: float, service_s: float) -> float:
        return self._worked_s + service_s

    def _slowdown(self) -> float:
        return self._slowdown_of(max(self.in_flight, 1), self._now)

    def _advance(self, now: float) -> None:
        self._worked_s += (now - self._now) / self._slowdown()
        self._now = now


class QueueServer(Server):
    """One that works on so many at once and lets the others wait in line."""

    def __init__(self, service_s: Callable[[], float], slots: int) -> None:
        super().__init__(service_s, with_slots(None))
        self._free_s = [0.0] * slots

    def _work(self, now: float, service_s: float) -> float:
        done = max(heapq.heappop(self._free_s), now) + service_s
        heapq.heappush(self._free_s, done)
        return done


def with_slots(slots: int | None, overload: float = 0.0) -> Callable[[int, float], float]:
    """The mock provider's formula."""
    return lambda in_flight, now: slowdown(in_flight, slots, overload)


@dataclass(slots=True)
class Run:
    """A closed loop: at each moment as many in flight as the limit allows. A `blind` limit only opens."""

    server: Server
    limit: AdaptiveConcurrency
    per_s: float = math.inf
    blind: bool = False
    answers: list[tuple[float, float]] = field(default_factory=list)
    """When each came, and its latency."""
    sends: list[float] = field(default_factory=list)
    bounds: list[tuple[float, int]] = field(default_factory=list)
    """When the bound changed, and to what; 0 for none."""
    most_in_flight: int = 0

    def play(self, requests: int) -> "Run":
        """Send so many requests and wait for their answers."""
        limit, server = self.limit, self.server
        now, next_s = 0.0, 0.0
        while requests or server.in_flight:
            ready_s = max(limit.ready_at(1.0, now), next_s) if requests else math.inf
            if ready_s <= now:
                limit.acquire(1.0, now)
                server.send(now)
                self.sends.append(now)
                self.most_in_flight = max(self.most_in_flight, server.in_flight)
                next_s = max(next_s, now) + 1.0 / self.per_s
                requests -= 1
            elif ready_s < server.next_s():
                now = ready_s
            else:
                now, sent_s = server.answer()
                self._conclude(now, sent_s)
                limit.settle(1.0, 0.0, now)
        return self

    def per_second(self, start_s: float, end_s: float = math.inf) -> float:
        """Return the throughput in that time; what came while the run ran out of requests does not count."""
        moments = [moment for moment, _ in self.answers[:-RUN_SLOTS] if start_s <= moment < end_s]
        return (len(moments) - 1) / (moments[-1] - moments[0])

    def latency_s(self, start_s: float) -> float:
        """Return the mean in that time."""
        latencies = [latency_s for moment, latency_s in self.answers[:-RUN_SLOTS] if moment >= start_s]
        return sum(latencies) / len(latencies)

    def bound_at(self, moment_s: float) -> int:
        """Return the bound at that time; 0 for none."""
        return next((bound for changed_s, bound in reversed(self.bounds) if changed_s <= moment_s), 0)

    def _conclude(self, now: float, sent_s: float) -> None:
        self.answers.append((now, now - sent_s))
        self.limit.on_answer(sent_s, 0.0 if self.blind else now - sent_s, now)
        bound = self.limit.bound or 0
        if bound != (self.bounds[-1][1] if self.bounds else 0):
            self.bounds.append((now, bound))


def slowdown_of_slots(in_flight: int, now: float, *, before: int, after: int, at_s: float) -> float:
    """Return the slowdown of a server whose number of slots changes at that time."""
    return slowdown(in_flight, before if now < at_s else after, 0.3)


def play(server: Server, requests: int, *, slots: int = RUN_SLOTS, per_s: float = math.inf) -> Run:
    """Play a whole run with a limit of its own."""
    return Run(server, AdaptiveConcurrency("concurrency", slots), per_s).play(requests)


def share_of_blind_run(make_server: Callable[[], Server], requests: int) -> float:
    """Return the throughput of a whole run as a share of that of a limit that opens and never learns."""
    blind = Run(make_server(), AdaptiveConcurrency("concurrency", RUN_SLOTS), blind=True).play(requests)
    return play(make_server(), requests).per_second(0.0) / blind.per_second(0.0)


def seconds_to_open(slots: int) -> float:
    """Return when so many are in flight at a server that never answers."""
    limit, now, sent = AdaptiveConcurrency("concurrency", slots), 0.0, 0
    while sent < slots:
        now = max(now, limit.ready_at(1.0, now))
        limit.acquire(1.0, now)
        sent += 1
    return now


@pytest.mark.parametrize(("slots", "first"), [(1, 1), (3, 3), (4, 4), (5, 4), (10_000, 4)])
def test_a_limit_starts_at_four_or_at_its_slots(slots: int, first: int) -> None:
    """A crowd does not meet a limit that is not known yet."""
    limit = AdaptiveConcurrency("concurrency", slots)
    for _ in range(first):
        assert limit.ready_at(1.0, 0.0) <= 0.0
        limit.acquire(1.0, 0.0)

    assert limit.ready_at(1.0, 0.0) > 0.0
    assert limit.is_open is (slots <= 4)


def test_each_round_trip_doubles_the_number_in_flight() -> None:
    """At a quick server all 256 are in flight after six round trips of 0.3 ms."""
    run = play(Server(lambda: 0.0003, with_slots(None)), 5000)
    trips = [sum(number <= sent_s / 0.0003 + 0.01 < number + 1 for sent_s in run.sends) for number in range(8)]

    assert trips == [4, 8, 16, 32, 64, 128, 256, 256]


@pytest.mark.parametrize(
    ("slots", "opening_s"), [(4, 0.0), (256, 1.5), (1000, 2.0), (4096, 2.5), (10_000, 2.5), (100_000, 2.5)]
)
def test_a_limit_opens_by_time_at_a_server_that_is_silent(slots: int, opening_s: float) -> None:
    """Answers may take minutes, while push-back comes at once: a doubling each quarter of a second, or sooner."""
    assert seconds_to_open(slots) == pytest.approx(opening_s)


def test_push_back_ends_the_opening_by_time_for_a_second() -> None:
    """Answers go on opening the limit."""
    limit = AdaptiveConcurrency("concurrency", 256)
    for _ in range(4):
        limit.acquire(1.0, 0.0)
    limit.ready_at(1.0, 0.0)
    limit.on_push_back(0.2)

    assert limit.ready_at(1.0, 0.25) == 1.2
    limit.on_answer(0.0, 0.5, 0.5)
    assert limit.ready_at(1.0, 0.5) <= 0.5
    limit.acquire(1.0, 0.5)
    assert limit.ready_at(1.0, 1.2) == 1.2
    assert free_slots(limit) == 5


def test_time_in_which_the_limit_is_not_full_does_not_open_it() -> None:
    """After an outage of half a minute a crowd would meet a server that has just started."""
    limit = AdaptiveConcurrency("concurrency", 256)
    limit.acquire(4.0, 0.0)
    limit.ready_at(1.0, 0.0)
    limit.settle(4.0, 0.0, 0.1)
    limit.acquire(4.0, 30.0)

    assert limit.ready_at(1.0, 30.0) == 30.25


@pytest.mark.parametrize("kind", [Server, SharedServer])
@pytest.mark.parametrize("seed", [1, 7, 10])
def test_a_server_that_collapses_is_soon_brought_near_its_best(kind: type[Server], seed: int) -> None:
    """256 requests for 32 slots halve the throughput: from the 800th answer on it is 82 % of the best, then 95 %."""
    run = play(kind(jitter(seed), with_slots(SLOTS, 0.3)), 4000)
    moments = [moment for moment, _ in run.answers]

    assert 1000 / (moments[1800] - moments[800]) >= 0.82 * BEST_PER_S
    assert 1900 / (moments[3700] - moments[1800]) >= 0.95 * BEST_PER_S


@pytest.mark.parametrize("kind", [Server, SharedServer])
def test_a_server_that_collapses_is_driven_at_its_best_throughput_and_not_at_its_longest_queue(
    kind: type[Server],
) -> None:
    """After ten seconds nearly all of the best, and hardly slower than unloaded."""
    run = play(kind(jitter(), with_slots(SLOTS, 0.3)), 10_000)

    assert run.per_second(SETTLED_S) >= 0.95 * BEST_PER_S
    assert run.latency_s(SETTLED_S) <= 1.25 * LATENCY_S


@pytest.mark.parametrize("kind", [Server, SharedServer])
def test_a_server_with_a_plain_queue_loses_nothing_by_a_shorter_one(kind: type[Server]) -> None:
    """256 wait eight times as long as 32 do, for the same throughput: the queue shrinks to about its half."""
    run = play(kind(jitter(), with_slots(SLOTS)), 10_000)

    assert run.per_second(SETTLED_S) >= 0.98 * BEST_PER_S
    assert run.latency_s(SETTLED_S) <= 2.0 * LATENCY_S


def test_a_server_that_collapses_under_long_answers_is_found() -> None:
    """Answers of five seconds and more come long after the opening by time has ended."""
    service_s = jitter()
    run = play(Server(lambda: 50 * service_s(), with_slots(SLOTS, 0.3)), 6000)

    assert run.per_second(300.0) >= 0.95 * SLOTS / LLM_LATENCY_S


def test_a_cold_start_hides_no_server_that_collapses() -> None:
    """The first crowd takes three times as long, as if latency had nothing to do with what is in flight."""
    run = play(Server(cold(jitter()), with_slots(SLOTS, 0.3)), 10_000)

    assert run.per_second(SETTLED_S) >= 0.95 * BEST_PER_S
    assert run.latency_s(SETTLED_S) <= 1.5 * LATENCY_S


@pytest.mark.parametrize("slots", [1, 4])
def test_a_server_of_few_slots_is_found_and_never_starved(slots: int) -> None:
    """From 256 at once down to a handful; with one slot, one is always in flight."""
    run = play(Server(jitter(), with_slots(slots)), 4000)

    assert run.limit.bound is not None
    assert slots <= run.limit.bound <= 1.5 * slots
    assert run.per_second(0.0) >= 0.95 * slots / LATENCY_S


def test_a_server_that_is_only_a_little_too_full_is_found_in_time() -> None:
    """200 slots for 256: no elasticity that the opening could tell for sure, but the first search finds it."""
    run = play(Server(jitter(), with_slots(200, 0.3)), 30_000)

    assert run.limit.bound is not None
    assert 190 <= run.limit.bound <= 220
    assert run.per_second(SETTLED_S) >= 0.97 * 200 / LATENCY_S


@pytest.mark.parametrize("requests", [300, 3000, 40_000])
def test_a_server_that_scales_gives_what_it_gives_without_the_search(requests: int) -> None:
    """A thousand slots are never full: all that is lost are 25 ms at the start, which bring no crowd, and a few trials
    long after it.
    """
    share = share_of_blind_run(lambda: Server(jitter(), with_slots(1000)), requests)

    assert share >= (0.985 if requests > 300 else 0.95)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("requests", [3000, 60_000])
def test_log_normal_latencies_are_no_sign_of_a_full_server(seed: int, requests: int) -> None:
    """Quick answers come first and stragglers last, however many are in flight."""
    share = share_of_blind_run(lambda: Server(log_normal(seed), with_slots(None)), requests)

    assert share >= (0.98 if requests > 3000 else 0.999)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_server_that_scales_may_change_its_speed(seed: int, factor: float) -> None:
    """Twice as fast or as slow from one moment to the other says nothing about the number in flight."""
    changing = Server(jitter(seed), lambda in_flight, now: 1.0 if now < 20.0 else factor)
    run = play(changing, 80_000)

    assert not run.bounds
    assert run.per_second(21.0) >= 0.98 * RUN_SLOTS / (factor * LATENCY_S)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_server_that_collapses_is_found_under_log_normal_latencies(seed: int) -> None:
    """It takes some thousand answers, and is not exact."""
    run = play(Server(log_normal(seed), with_slots(SLOTS, 0.3)), 8000)

    assert run.limit.bound is not None
    assert 0.85 * SLOTS <= run.limit.bound <= 1.5 * SLOTS


@pytest.mark.parametrize("seed", [1, 16, 55])
def test_a_full_server_with_a_queue_is_found_under_log_normal_latencies(seed: int) -> None:
    """Those that wait in one line are all alike, and tell little of how far apart those will be that do not wait."""
    run = play(QueueServer(log_normal(seed), SLOTS), 8000)

    assert run.limit.bound is not None
    assert 0.85 * SLOTS <= run.limit.bound <= 1.5 * SLOTS
    assert run.per_second(600.0) >= 0.85 * SLOTS / LLM_LATENCY_S


@pytest.mark.parametrize("kind", [Server, SharedServer])
@pytest.mark.parametrize("requests", [1200, 15_000])
def test_a_server_whose_throughput_still_grows_is_left_at_the_most(kind: type[Server], requests: int) -> None:
    """Latency as the square root of what is in flight: slower for each, yet more for all."""
    share = share_of_blind_run(lambda: kind(jitter(), lambda in_flight, now: math.sqrt(in_flight)), requests)

    assert share >= (0.98 if requests > 1200 else 0.995)


def test_a_few_percent_are_not_given_up_again_and_again() -> None:
    """A server whose throughput hardly grows may be held back a little, but not further with each search."""
    share = share_of_blind_run(lambda: Server(jitter(), lambda in_flight, now: in_flight**0.9), 60_000)

    assert share >= 0.93


def test_a_server_that_loses_half_of_its_capacity_is_followed() -> None:
    """Somebody else takes 16 of the 32 slots after twenty seconds; twenty later, mostly, it gets no more."""
    changing = partial(slowdown_of_slots, before=32, after=16, at_s=20.0)
    runs = [play(Server(jitter(seed), changing), 11_000) for seed in range(1, 11)]

    assert all(30 <= run.bound_at(20.0) <= 37 for run in runs)
    followed = [run for run in runs if 15 <= run.bound_at(40.0) <= 18]
    assert len(followed) >= 7
    assert all(run.per_second(42.0) >= 0.95 * 16 / LATENCY_S for run in followed)


def test_a_server_that_gains_capacity_is_followed() -> None:
    """Twice the slots after a minute: nothing gets slower by it, so only a trial can tell, and half do soon."""
    changing = partial(slowdown_of_slots, before=32, after=64, at_s=60.0)
    runs = [play(Server(jitter(seed), changing), 34_000) for seed in range(1, 9)]

    assert all(30 <= run.bound_at(60.0) <= 37 for run in runs)
    followed = [run for run in runs if 60 <= run.bound_at(75.0) <= 70]
    assert len(followed) >= 4
    assert all(run.per_second(75.0) >= 0.95 * 64 / LATENCY_S for run in followed)


def test_a_server_that_is_full_only_later_is_found() -> None:
    """400 slots shrink to 64 when the opening is long over: latency rises though no more are in flight."""
    run = play(Server(jitter(), lambda in_flight, now: slowdown(in_flight, 400 if now < 20.0 else 64, 0.3)), 70_000)

    assert run.bound_at(20.0) == 0
    assert 60 <= run.bounds[-1][1] <= 70


def test_a_bound_server_that_scales_again_gets_all_that_the_run_has() -> None:
    """The search goes up as far as the run allows."""
    run = play(Server(jitter(), lambda in_flight, now: slowdown(in_flight, 32 if now < 20.0 else None, 0.3)), 60_000)

    assert run.bound_at(20.0) > 0
    assert run.per_second(40.0) >= 0.95 * RUN_SLOTS / LATENCY_S


def test_searches_cost_a_hundredth_of_the_throughput_at_most() -> None:
    """Over any stretch of a long run at a server that scales; and they become rare."""
    run = play(Server(jitter(), with_slots(None)), 200_000)
    halves = run.per_second(2.0, 40.0), run.per_second(40.0)

    assert halves[0] >= 0.99 * RUN_SLOTS / LATENCY_S
    assert halves[1] >= 0.995 * RUN_SLOTS / LATENCY_S
    assert not run.bounds


def test_a_rate_that_holds_requests_back_is_not_taken_for_a_full_server() -> None:
    """100 a second and a latency that doubles: twice as many in flight and no more throughput, by Little's law."""
    doubled = Server(jitter(), lambda in_flight, now: 5.0 if now < 20.0 else 10.0)
    run = play(doubled, 10_000, per_s=100.0)

    assert run.limit.bound is None
    assert run.per_second(SETTLED_S) >= 0.98 * 100.0


def test_a_bound_limit_learns_nothing_while_something_else_holds_requests_back() -> None:
    """A trickle of requests is fast and far from full: no reason to open or to narrow."""
    limit = AdaptiveConcurrency("concurrency", RUN_SLOTS)
    Run(Server(jitter(), with_slots(SLOTS, 0.3)), limit).play(5000)
    bound = limit.bound
    Run(Server(jitter(2), with_slots(SLOTS, 0.3)), limit, per_s=80.0).play(5000)

    assert bound is not None
    assert limit.bound == bound


def test_a_trial_that_cannot_be_measured_ends() -> None:
    """Input runs short while fewer in flight are tried: that is not all that what comes later gets."""
    limit = AdaptiveConcurrency("concurrency", RUN_SLOTS)
    Run(Server(jitter(), with_slots(None)), limit).play(4700)
    tried = free_slots(limit)
    Run(Server(jitter(), with_slots(None)), limit, per_s=80.0).play(4000)

    assert tried < free_slots(limit) == RUN_SLOTS


def test_a_bound_server_that_answers_at_once_is_set_free() -> None:
    """Latencies below 20 ms teach nothing, unless they come from a server that is held back."""
    run = play(Server(jitter(), lambda in_flight, now: slowdown(in_flight, SLOTS, 0.3) if now < 10.0 else 0.05), 99_000)

    assert run.bound_at(10.0) > 0
    assert run.limit.bound is None


def test_slots_that_somebody_set_are_never_exceeded() -> None:
    """A server that would take more still gets 40 at the most; one that is full of 40 gets fewer."""
    scaling = Run(Server(jitter(), with_slots(None)), AdaptiveConcurrency("concurrency", 40)).play(20_000)
    full = Run(Server(jitter(), with_slots(20, 0.3)), AdaptiveConcurrency("concurrency", 40)).play(20_000)

    assert scaling.most_in_flight == full.most_in_flight == 40
    assert full.limit.bound is not None
    assert 18 <= full.limit.bound <= 24


def test_latencies_of_nothing_are_borne() -> None:
    """A clock need not tell two moments apart."""
    limit = AdaptiveConcurrency("concurrency", RUN_SLOTS)
    for _ in range(1000):
        limit.acquire(1.0, 1.0)
        limit.on_answer(1.0, 0.0, 1.0)
        limit.settle(1.0, 0.0, 1.0)

    assert limit.bound is None


def measure(sample: LatencySample, service_s: Callable[[], float], in_flight: int) -> list[float]:
    """Feed a steady closed loop into the sample from the sixth round on; return the first latencies answered."""
    server, firsts = Server(service_s, with_slots(None)), list[float]()
    start_s = math.inf
    for _ in range(in_flight):
        server.send(0.0)
    for answers in count():
        now, sent_s = server.answer()
        if answers == 6 * in_flight:
            start_s = now
        if sent_s >= start_s:
            firsts.append(now - sent_s)
        if now >= start_s:
            if sample.on_answer(sent_s, now - sent_s):
                break
            sample.on_send(in_flight, now)
        server.send(now)
    return firsts


def test_a_sample_does_not_count_the_quick_answers_first() -> None:
    """Among log-normal latencies the first that come are the short ones; those of a sample are like all."""
    true_log = math.log(LLM_LATENCY_S) - 0.5
    sample = LatencySample(1000, 1e9)
    firsts = measure(sample, log_normal(), 1000)

    assert sum(map(math.log, firsts[:1000])) / 1000 < true_log - 0.2
    assert sample.log_latency == pytest.approx(true_log, abs=0.15)
    assert sample.deviation == pytest.approx(1.0, rel=0.2)


def test_a_sample_is_all_that_was_sent_in_its_time() -> None:
    """Twenty were wanted and a hundred went in one moment: the first twenty answers are the quickest of them."""
    sample = LatencySample(20, 1e9)
    for moment in (0.0, *[1.0] * 100):
        sample.on_send(100.0, moment)
    replies = [sample.on_answer(1.0, 1.0) for _ in range(100)]

    assert replies.index(True) == 94


def test_a_sample_counts_nothing_that_was_sent_before_or_after_it() -> None:
    """What was sent on the way to a number in flight took another time."""
    sample = LatencySample(10, 1e9)
    for moment in range(20):
        sample.on_send(10.0, float(moment))
    for sent_s in range(1, 11):
        sample.on_answer(sent_s, 2.0)
    for sent_s in (-1, 0, 11):
        sample.on_answer(sent_s, 9.0)

    assert sample.log_latency == pytest.approx(math.log(2.0))


def test_a_sample_of_which_too_few_answers_come_ends_without_being_complete() -> None:
    """Half of what was sent failed or hangs."""
    sample = LatencySample(10, 50)
    for moment in range(11):
        sample.on_send(10.0, float(moment))
    replies = [sample.on_answer(moment, 1.0) for moment in (*[5.0] * 5, *[20.0] * 60)]

    assert replies.index(True) == 50
    assert not sample.is_complete
