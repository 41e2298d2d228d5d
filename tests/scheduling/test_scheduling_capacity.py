"""Capacity window: a full server at its best, a server that scales untouched, whatever latencies look like."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from llmblast.mocking.capacity import slowdown
from llmblast.scheduling import OpeningWindow
from llmblast.scheduling.capacity import CapacityWindow
from llmblast.scheduling.climbing import Climb
from llmblast.scheduling.cohorts import Cohort, Level

LATENCY_S = 0.1
SLOTS = 32
BEST_PER_S = SLOTS / LATENCY_S
SETTLED_S = 10.0
RUN_SLOTS = 256
LLM_LATENCY_S = 5.0


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
    """A closed loop: at each moment as many in flight as the run's window and the endpoint's allow."""

    server: Server
    window: CapacityWindow | None
    slots: int = RUN_SLOTS
    per_s: float = math.inf
    answers: list[tuple[float, float]] = field(default_factory=list)
    """When each came, and its latency."""
    widths: list[tuple[float, int]] = field(default_factory=list)
    """When the window's bound changed, and to what; 0 for none."""
    most_in_flight: int = 0

    def play(self, requests: int) -> "Run":
        opening, server, window = OpeningWindow("run", self.slots), self.server, self.window
        limits = [opening] if window is None else [opening, window]
        now, next_s = 0.0, 0.0
        while requests or server.in_flight:
            is_open = requests > 0 and all(limit.ready_at(1.0, now) <= now for limit in limits)
            if is_open and next_s <= now:
                for limit in limits:
                    limit.take(1.0, now)
                server.send(now)
                self.most_in_flight = max(self.most_in_flight, server.in_flight)
                next_s = max(next_s, now) + 1.0 / self.per_s
                requests -= 1
            elif is_open and next_s < server.next_s():
                now = next_s
            else:
                now, sent_s = server.answer()
                self._conclude(now, sent_s)
                opening.answered()
                for limit in limits:
                    limit.settle(1.0, 0.0, now)
        return self

    def per_second(self, start_s: float, end_s: float = math.inf) -> float:
        """Throughput in that time; what came while the run ran out of requests does not count."""
        moments = [moment for moment, _ in self.answers[: -self.slots] if start_s <= moment < end_s]
        return (len(moments) - 1) / (moments[-1] - moments[0])

    def latency_s(self, start_s: float) -> float:
        """The mean in that time."""
        latencies = [latency_s for moment, latency_s in self.answers[: -self.slots] if moment >= start_s]
        return sum(latencies) / len(latencies)

    def bound_at(self, moment_s: float) -> int:
        """The bound at that time; 0 for none."""
        return next((width for changed_s, width in reversed(self.widths) if changed_s <= moment_s), 0)

    def _conclude(self, now: float, sent_s: float) -> None:
        self.answers.append((now, now - sent_s))
        if self.window is None:
            return
        self.window.answered(sent_s, now - sent_s, now)
        width = self.window.bound or 0
        if width != (self.widths[-1][1] if self.widths else 0):
            self.widths.append((now, width))


def play(server: Server, requests: int, *, slots: int = RUN_SLOTS, per_s: float = math.inf) -> Run:
    return Run(server, CapacityWindow("capacity"), slots, per_s).play(requests)


def share_of_free_run(make_server: Callable[[], Server], requests: int) -> float:
    """Throughput of a whole run with the window, of that without."""
    free = Run(make_server(), None).play(requests)
    held = play(make_server(), requests)
    return held.per_second(0.0) / free.per_second(0.0)


@pytest.mark.parametrize("kind", [Server, SharedServer])
@pytest.mark.parametrize("overload", [0.0, 0.3])
def test_a_full_server_is_driven_at_its_best_throughput_and_not_at_its_longest_queue(
    kind: type[Server], overload: float
) -> None:
    """256 requests for 32 slots: after ten seconds nearly all of the best, and hardly slower than unloaded."""
    run = play(kind(jitter(), with_slots(SLOTS, overload)), 10_000)

    assert run.per_second(SETTLED_S) >= 0.95 * BEST_PER_S
    assert run.latency_s(SETTLED_S) <= 1.5 * LATENCY_S


@pytest.mark.parametrize("overload", [0.0, 0.3])
def test_a_cold_start_hides_no_full_server(overload: float) -> None:
    """The first crowd takes three times as long, as if latency had nothing to do with what is in flight."""
    run = play(Server(cold(jitter()), with_slots(SLOTS, overload)), 10_000)

    assert run.per_second(SETTLED_S) >= 0.95 * BEST_PER_S
    assert run.latency_s(SETTLED_S) <= 1.5 * LATENCY_S


@pytest.mark.parametrize("slots", [1, 4])
def test_a_server_of_few_slots_is_found_and_never_starved(slots: int) -> None:
    """From 64 at once down to a handful; with one slot, one is always in flight."""
    run = play(Server(jitter(), with_slots(slots)), 4000)

    assert run.window is not None
    assert run.window.bound is not None
    assert slots <= run.window.bound <= 1.5 * slots
    assert run.per_second(0.0) >= 0.98 * slots / LATENCY_S


@pytest.mark.parametrize("overload", [0.0, 0.3])
def test_a_server_that_is_only_a_little_too_full_is_found_in_time(overload: float) -> None:
    """200 slots for 256: no elasticity that the opening could tell for sure, but a look soon finds it."""
    run = play(Server(jitter(), with_slots(200, overload)), 30_000)

    assert run.window is not None
    assert run.window.bound is not None
    assert 190 <= run.window.bound <= 220
    assert run.per_second(SETTLED_S) >= 0.97 * 200 / LATENCY_S


@pytest.mark.parametrize("requests", [300, 3000, 40_000])
def test_a_server_that_scales_gives_what_it_gives_without_the_window(requests: int) -> None:
    """A thousand slots are never full: all that is lost are a few looks, long after the start."""
    share = share_of_free_run(lambda: Server(jitter(), with_slots(1000)), requests)

    assert share >= (0.99 if requests > 3000 else 1.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("requests", [3000, 60_000])
def test_log_normal_latencies_are_no_sign_of_a_full_server(seed: int, requests: int) -> None:
    """Quick answers come first and stragglers last, however many are in flight."""
    share = share_of_free_run(lambda: Server(log_normal(seed), with_slots(None)), requests)

    assert share >= (0.98 if requests > 3000 else 1.0)


@pytest.mark.parametrize("overload", [0.0, 0.3])
def test_a_full_server_is_found_under_log_normal_latencies(overload: float) -> None:
    """It takes some thousand answers, and is not exact."""
    run = play(Server(log_normal(), with_slots(SLOTS, overload)), 8000)

    assert run.window is not None
    assert run.window.bound is not None
    assert 0.9 * SLOTS <= run.window.bound <= 1.5 * SLOTS


@pytest.mark.parametrize("seed", [1, 16, 55])
def test_a_full_server_with_a_queue_is_found_under_log_normal_latencies(seed: int) -> None:
    """Those that wait in one line are all alike, and tell little of how far apart those will be that do not wait."""
    run = play(QueueServer(log_normal(seed), SLOTS), 8000)

    assert run.window is not None
    assert run.window.bound is not None
    assert 0.9 * SLOTS <= run.window.bound <= 1.5 * SLOTS
    assert run.per_second(600.0) >= 0.95 * SLOTS / LLM_LATENCY_S


@pytest.mark.parametrize("kind", [Server, SharedServer])
@pytest.mark.parametrize("requests", [1200, 15_000])
def test_a_server_whose_throughput_still_grows_is_left_at_the_most(kind: type[Server], requests: int) -> None:
    """Latency as the square root of what is in flight: slower for each, yet more for all."""
    share = share_of_free_run(lambda: kind(jitter(), lambda in_flight, now: math.sqrt(in_flight)), requests)

    assert share >= (0.98 if requests > 1200 else 1.0)


def test_a_few_percent_are_not_given_up_again_and_again() -> None:
    """A server whose throughput hardly grows may be held back a little, but not further with each look."""
    share = share_of_free_run(lambda: Server(jitter(), lambda in_flight, now: in_flight**0.9), 60_000)

    assert share >= 0.93


@pytest.mark.parametrize("seed", [1, 3, 7])
def test_a_server_that_loses_half_of_its_capacity_is_followed(seed: int) -> None:
    """Somebody else takes 16 of the 32 slots after twenty seconds; twenty later only the others are asked for."""
    run = play(Server(jitter(seed), lambda in_flight, now: slowdown(in_flight, 32 if now < 20.0 else 16, 0.3)), 12_000)

    assert 30 <= run.bound_at(20.0) <= 36
    assert 15 <= run.bound_at(40.0) <= 18
    assert run.per_second(45.0) >= 0.95 * 16 / LATENCY_S


def test_a_server_that_gains_capacity_is_followed() -> None:
    """Twice the slots after a minute: nothing gets slower by it, so only a look can tell."""
    run = play(Server(jitter(), lambda in_flight, now: slowdown(in_flight, 32 if now < 60.0 else 64, 0.3)), 34_000)

    assert 30 <= run.bound_at(60.0) <= 36
    assert 60 <= run.bound_at(75.0) <= 70
    assert run.per_second(75.0) >= 0.95 * 64 / LATENCY_S


def test_a_server_that_is_full_only_later_is_found() -> None:
    """400 slots shrink to 64 when the opening is long over: latency rises though no more are in flight."""
    run = play(Server(jitter(), lambda in_flight, now: slowdown(in_flight, 400 if now < 20.0 else 64, 0.3)), 70_000)

    assert run.bound_at(20.0) == 0
    assert 60 <= run.widths[-1][1] <= 70


def test_a_bound_server_that_scales_again_gets_all_that_the_run_has() -> None:
    """A look at more than the run may have in flight is given up and holds nothing back."""
    run = play(Server(jitter(), lambda in_flight, now: slowdown(in_flight, 32 if now < 20.0 else None, 0.3)), 60_000)

    assert run.bound_at(20.0) > 0
    assert run.per_second(40.0) >= 0.95 * RUN_SLOTS / LATENCY_S


def test_looks_cost_a_hundredth_of_the_throughput_at_most() -> None:
    """Over any stretch of a long run at a server that scales; and they become rare."""
    run = play(Server(jitter(), with_slots(None)), 200_000)
    halves = run.per_second(2.0, 40.0), run.per_second(40.0)

    assert halves[0] >= 0.99 * RUN_SLOTS / LATENCY_S
    assert halves[1] >= 0.995 * RUN_SLOTS / LATENCY_S
    assert not run.widths


def test_a_rate_that_holds_requests_back_is_not_taken_for_a_full_server() -> None:
    """100 a second and a latency that doubles: twice as many in flight and no more throughput, by Little's law."""
    doubled = Server(jitter(), lambda in_flight, now: 5.0 if now < 20.0 else 10.0)
    run = play(doubled, 10_000, per_s=100.0)

    assert run.window is not None
    assert run.window.bound is None
    assert run.per_second(SETTLED_S) >= 0.98 * 100.0


def test_a_bound_window_learns_nothing_while_something_else_holds_requests_back() -> None:
    """A trickle of requests is fast and far from full: no reason to open or to narrow."""
    window = CapacityWindow("capacity")
    Run(Server(jitter(), with_slots(SLOTS, 0.3)), window).play(5000)
    bound = window.bound
    Run(Server(jitter(2), with_slots(SLOTS, 0.3)), window, slots=8).play(5000)

    assert bound is not None
    assert window.bound == bound


def test_a_climb_that_cannot_be_measured_ends() -> None:
    """Input runs short while half of the best so far is tried: that is not all that what comes later gets."""
    window = CapacityWindow("capacity")
    Run(Server(jitter(), with_slots(SLOTS)), window).play(1280)
    tried = slots_of(window)
    Run(Server(jitter(), with_slots(SLOTS)), window, slots=4).play(3000)

    assert 2 * tried < slots_of(window) == window.bound


def test_slots_that_somebody_set_are_never_exceeded() -> None:
    """A server that would take more still gets 40 at the most; one that is full of 40 gets fewer."""
    scaling = Run(Server(jitter(), with_slots(None)), CapacityWindow("capacity", 40)).play(20_000)
    full = Run(Server(jitter(), with_slots(20, 0.3)), CapacityWindow("capacity", 40)).play(20_000)

    assert scaling.most_in_flight == full.most_in_flight == 40
    assert full.window is not None
    assert full.window.bound is not None
    assert 18 <= full.window.bound <= 24


def test_latencies_of_nothing_are_borne() -> None:
    """A clock need not tell two moments apart."""
    window = CapacityWindow("capacity")
    for _ in range(1000):
        window.take(1.0, 1.0)
        window.answered(1.0, 0.0, 1.0)
        window.settle(1.0, 0.0, 1.0)

    assert window.bound is None


def slots_of(window: CapacityWindow) -> int:
    """How many requests it lets go at once, up to the run's; what it had taken is given back."""
    taken = 0
    while not window.is_full and taken < RUN_SLOTS:
        window.take(1.0, 0.0)
        taken += 1
    window.settle(taken, 0.0, 0.0)
    return taken


def measure(cohort: Cohort, service_s: Callable[[], float], in_flight: int) -> tuple[Level | None, list[float]]:
    """A steady closed loop until the cohort is measured, from its sixth round on; also the first latencies answered."""
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
        if now >= start_s and cohort.add(in_flight, sent_s, now - sent_s, now):
            break
        server.send(now)
    return cohort.level(now), firsts


def test_a_cohort_does_not_count_the_quick_answers_first() -> None:
    """Among log-normal latencies the first that come are the short ones; those of a cohort are like all."""
    true_log = math.log(LLM_LATENCY_S) - 0.5
    level, firsts = measure(Cohort(1000), log_normal(), 1000)
    first_log = sum(map(math.log, firsts[:1000])) / 1000

    assert level is not None
    assert first_log < true_log - 0.2
    assert level.log_latency == pytest.approx(true_log, abs=0.1)
    assert level.error == pytest.approx(1.0 / math.sqrt(1000), rel=0.2)


def test_a_cohort_counts_what_was_sent_while_the_number_in_flight_grew() -> None:
    """Every answer lets two more go from 100 to 200; those were a hundred and fifty in the mean."""
    cohort = Cohort(200)
    for number in range(100):
        assert not cohort.add(100.0 + number, 0.0, 1.0, 1.0)
    assert not cohort.add(200.0, 0.0, 1.0, 2.0)
    replies = [cohort.add(200.0, 1.5, 1.0, 3.0) for _ in range(190)]
    level = cohort.level(3.0)

    assert replies.index(True) == 189
    assert level is not None
    assert level.in_flight == pytest.approx(150.0, rel=0.01)


def test_a_cohort_is_all_that_was_sent_in_its_time() -> None:
    """Twenty were wanted, and a window that opened let 190 go at once: the first twenty answers are not theirs."""
    cohort = Cohort(20)
    cohort.add(10.0, 0.0, 1.0, 1.0)
    cohort.add(200.0, 0.0, 1.0, 2.0)
    replies = [cohort.add(200.0, 1.5, 1.0, 3.0) for _ in range(191)]

    assert replies.index(True) == 181


def test_a_cohort_bears_a_number_in_flight_that_falls_at_once() -> None:
    """Ninety of a hundred failed in one moment: nobody told of them, and ten are left."""
    cohort = Cohort(20)
    cohort.add(100.0, 0.0, 1.0, 1.0)
    for number in range(300):
        cohort.add(10.0, 1.0 + number / 100, 1.0, 2.0 + number / 100)
    level = cohort.level(5.0)

    assert level is not None
    assert level.in_flight == pytest.approx(10.0, rel=0.1)


def test_a_cohort_counts_nothing_that_was_sent_before_or_after_it() -> None:
    """What was sent on the way to the level, or once the cohort was full, took another time."""
    cohort = Cohort(10, low=9.0, high=10.0)
    for moment in (0.0, 0.1, 0.2):
        cohort.add(12.0, moment - 9.0, 9.0, moment)
    for number in range(20):
        now = 1.0 + number / 10
        cohort.add(10.0, now - 9.0, 9.0, now)
    for number in range(9):
        cohort.add(10.0, 1.0 + number / 10, 2.0, 3.0)
    for _ in range(9):
        cohort.add(10.0, 2.5, 0.5, 3.0)
    cohort.add(10.0, 1.9, 2.0, 3.9)
    level = cohort.level(3.9)

    assert level is not None
    assert level.log_latency == pytest.approx(math.log(2.0), abs=1e-5)


def test_a_cohort_begins_anew_when_the_window_is_not_full() -> None:
    """Requests that found the server half empty are not of its level."""
    cohort = Cohort(10, low=9.0, high=10.0)
    for number in range(9):
        cohort.add(10.0, 0.0, 1.0, number / 10)
    cohort.add(5.0, 0.0, 1.0, 1.0)
    for number in range(10):
        cohort.add(10.0, 0.5, 1.0, 2.0 + number / 10)
    replies = [cohort.add(10.0, 2.5, 3.0, 5.5) for _ in range(10)]
    level = cohort.level(5.5)

    assert replies[-1]
    assert level is not None
    assert level.log_latency == pytest.approx(math.log(3.0), abs=1e-5)


def test_a_cohort_whose_level_is_never_reached_is_given_up() -> None:
    """Something else holds requests back: after eight times its size there is nothing to say."""
    cohort = Cohort(10, low=9.0, high=10.0)
    replies = [cohort.add(3.0, 0.0, 1.0, float(number)) for number in range(81)]

    assert replies.index(True) == 80
    assert cohort.level(81.0) is None


def test_a_cohort_of_which_too_few_answers_come_tells_nothing() -> None:
    """Half of what was sent failed or hangs; four fifths would do, once there is no more to wait for."""
    levels = []
    for answered in (50, 80):
        cohort = Cohort(100)
        for number in range(101):
            cohort.add(100.0, -1.0, 1.0, number / 100)
        replies = [cohort.add(100.0, 0.5 if number < answered else 2.0, 1.0, 9.0) for number in range(700)]
        levels.append(cohort.level(9.0))
        assert replies.index(True) == 699

    assert levels[0] is None
    assert levels[1] is not None


def test_stragglers_count_as_late_as_they_are() -> None:
    """A twentieth is still missing, after ten times the latency of the others."""
    cohort = Cohort(100)
    for number in range(101):
        cohort.add(100.0, -1.0, 1.0, number / 100)
    replies = [cohort.add(100.0, 0.5, 1.0, 11.0) for _ in range(95)]
    level = cohort.level(11.0)

    assert replies.index(True) == 94
    assert level is not None
    assert level.log_latency == pytest.approx(0.05 * math.log(10.0), abs=1e-5)


def climb(throughput: Callable[[int], float], start: int, *, upward: bool = False, most: int = 10_000) -> list[int]:
    """The numbers in flight that a climb measures without any error, and the best one at the end."""
    measured = Climb(start, level_of(start, throughput), 2.0, upward=upward, most=most)
    numbers = list[int]()
    for _ in range(40):
        number = measured.candidate()
        if number == measured.best or measured.ratio(number) < 1.09:
            return [*numbers, measured.best]
        numbers.append(number)
        measured.judge(number, level_of(number, throughput))
    raise AssertionError("the climb has no end")


def level_of(in_flight: int, throughput: Callable[[int], float]) -> Level:
    return Level(in_flight, math.log(in_flight / throughput(in_flight)), 0.0, 0.0)


def test_a_climb_halves_while_nothing_is_lost_and_then_closes_in() -> None:
    """With 32 slots; half of the throughput at half of the number leaves nothing in between to look at."""
    assert climb(lambda n: min(n, 32) / max(1.0, n / 32) ** 0.3, 256) == [128, 64, 32, 16, 45, 38, 35, 32]


def test_a_climb_looks_below_the_best_where_more_than_half_was_left() -> None:
    """With 24 slots 16 are two thirds: the best is somewhere between."""
    assert climb(lambda n: min(n, 24), 256)[:6] == [128, 64, 32, 16, 45, 23]


@pytest.mark.parametrize(("exponent", "best"), [(0.0, 1), (0.01, 16), (0.5, 256)])
def test_a_climb_gives_up_three_percent_of_the_highest_throughput_for_fewer_in_flight(
    exponent: float, best: int
) -> None:
    """Not three percent again with each step."""
    assert climb(lambda n: n**exponent, 256)[-1] == best


def test_a_climb_compares_with_the_highest_throughput_and_not_with_the_start() -> None:
    """Far too many make the start so bad that a third of the best would still be an improvement."""
    assert climb(lambda n: min(n, 100) ** 0.8 / max(1.0, n / 100) ** 2, 1000)[-1] in range(90, 110)


def test_a_climb_forgets_a_throughput_that_a_second_measurement_denies() -> None:
    """32 looked ten percent better than they are; 16 are as good as they."""
    measured = Climb(64, level_of(64, lambda n: 100.0), 2.0, upward=False, most=64)
    measured.judge(32, level_of(32, lambda n: 110.0))
    measured.judge(32, level_of(32, lambda n: 100.0))
    measured.judge(16, level_of(16, lambda n: 99.0))

    assert measured.best == 16


def test_a_climb_upward_widens_its_steps_up_to_twice_and_stops_at_the_most() -> None:
    """Beyond the number that somebody set nothing is tried."""
    assert climb(float, 32, upward=True, most=100) == [64, 100, 80, 100]
