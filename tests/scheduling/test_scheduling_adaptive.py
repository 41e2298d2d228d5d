"""Adaptive limits: out of the way at first, taught by push-back, and close to what nobody named."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from llmblast.mocking.limits import POLICIES
from llmblast.mocking.rates import Rate as ServerRate
from llmblast.records import NO_TOKENS, Request, Tokens
from llmblast.scheduling import ROUTES, Endpoint, LearnedRate, Scheduler, limit_set
from llmblast.settings import EndpointSettings, RateSettings
from tests.scheduling.scheduling_samples import Driver, EndpointOptions, admit_all, make_request

START_S = 1000.0
PER_SECOND = 300.0
LATENCY_S = 0.05
REQUESTS = 20_000
SETTLED_S = START_S + 5.0
MOST_PLAYED = 100_000


def play(rate: LearnedRate, start_s: float, seconds: float) -> float:
    """Sends whatever may go for so long, each at the moment when it is ready; returns the moment of the next one."""
    now = start_s
    for _ in range(MOST_PLAYED):
        rate.take(1.0, now)
        now = max(now, rate.ready_at(1.0, now))
        if now >= start_s + seconds:
            return now
    raise AssertionError("the rate has no bound")


def pace_of(rate: LearnedRate, now: float) -> float:
    """Requests per second at this moment, by what one more moves the schedule."""
    before_s = rate.ready_at(1.0, now)
    rate.take(1.0, before_s)
    return 1.0 / (rate.ready_at(1.0, before_s) - before_s)


def seconds_to_the_ceiling(rate: LearnedRate, start_s: float) -> float:
    """How long it takes, when all that may go goes, until requests follow each other at the rate last pushed back."""
    now, ceiling_per_s = play(rate, start_s, 0.1), rate.ceiling_per_s
    while pace_of(rate, now) < ceiling_per_s * 0.999999:
        now = rate.ready_at(1.0, now)
    return now - start_s


def make_adaptive(options: EndpointOptions | None = None, slots: int = 256) -> Scheduler:
    """One endpoint, whose limits nobody named unless they are named here."""
    named: EndpointOptions = {"adaptive": True, **(options or {})}
    limits = limit_set("run", RateSettings(concurrency=slots), 0.0)
    settings = EndpointSettings(url="http://127.0.0.1/v1", name="e0", **named)
    return Scheduler(limits, [Endpoint(0, settings, run_concurrency=slots)], ROUTES["weighted"])


def test_the_first_crowd_doubles_with_each_round_trip() -> None:
    """4 go at once, 8 when those are answered, then 16, up to what the run allows."""
    scheduler = make_adaptive(slots=20)
    for number in range(1, 2000):
        scheduler.lanes.add(make_request(number))
    crowds = []
    for now in (0.0, 1.0, 2.0, 3.0):
        crowd = admit_all(scheduler, now)
        crowds.append(len(crowd))
        for request, endpoint in crowd:
            scheduler.answered(request, endpoint, 0.2)
            scheduler.release(request, endpoint, NO_TOKENS, now + 0.2)

    assert crowds == [4, 8, 16, 20]


def test_an_end_without_an_answer_opens_nothing() -> None:
    """Errors are no reason to send more at once."""
    scheduler = make_adaptive()
    for number in range(1, 500):
        scheduler.lanes.add(make_request(number))
    for request, endpoint in admit_all(scheduler, 0.0):
        scheduler.release(request, endpoint, NO_TOKENS, 0.2)

    assert len(admit_all(scheduler, 0.2)) == 4


def test_a_silent_endpoint_is_asked_again_when_its_limit_doubles() -> None:
    """The scheduler wakes by time alone; push-back puts that off for a second."""
    scheduler = make_adaptive()
    for number in range(1, 500):
        scheduler.lanes.add(make_request(number))
    admit_all(scheduler, 0.0)
    first_s = scheduler.wake_at
    second = len(admit_all(scheduler, first_s))
    scheduler.endpoints[0].rejected(first_s, 0.0, first_s + 0.1)
    admit_all(scheduler, first_s + 0.2)

    assert (first_s, second) == (0.25, 4)
    assert scheduler.wake_at == pytest.approx(first_s + 1.1)


def test_the_run_bounds_what_an_endpoint_learns_to_hold() -> None:
    """Of a set concurrency and the run's, the lower one holds."""
    settings = EndpointSettings(url="http://127.0.0.1/v1", name="e0", concurrency=9)
    endpoints = [Endpoint(0, settings, run_concurrency=run) for run in (5, 100)]
    for endpoint in endpoints:
        assert endpoint.concurrency is not None
        for _ in range(100):
            endpoint.answered(1.0, 0.001)

    assert [endpoint.limits.free_slots for endpoint in endpoints] == [5, 9]


def test_a_learned_rate_starts_five_percent_below_what_was_accepted() -> None:
    """Evenly, from its first request on."""
    rate = LearnedRate("learned", 100.0, START_S)

    assert pace_of(rate, play(rate, START_S, 0.02)) == pytest.approx(95.0, rel=0.01)


def test_a_learned_rate_is_back_where_it_was_pushed_back_after_the_plateau_and_then_climbs_beyond() -> None:
    """A second to the ceiling, flat around it, and away from it when nothing comes."""
    rate = LearnedRate("learned", 100.0, START_S)
    paces, now = [], START_S
    for _ in range(6):
        now = play(rate, now, 0.5)
        paces.append(pace_of(rate, now))

    assert paces == sorted(paces)
    assert paces[1] == pytest.approx(100.0, rel=0.005)
    assert paces[2] - paces[0] < 2.0
    assert paces[5] > 130.0


def test_a_learned_rate_is_lowered_once_for_what_was_in_flight() -> None:
    """Twenty rejections of what was sent before the first of them was read take no more than five percent."""
    rate = LearnedRate("learned", 100.0, START_S)
    now = play(rate, START_S, 2.5)
    pace = pace_of(rate, now)
    for n in range(20):
        rate.rejected(now - 0.05, now + n / 400)

    assert rate.ceiling_per_s == pytest.approx(pace, rel=0.01)
    assert pace_of(rate, play(rate, now + 0.1, 0.02)) == pytest.approx(0.95 * pace, rel=0.01)


def test_a_learned_rate_is_lowered_again_for_what_was_sent_since() -> None:
    """Each time by five percent of where it was."""
    rate = LearnedRate("learned", 100.0, START_S)
    now = play(rate, START_S, 1.0)
    rate.rejected(now - 0.01, now)
    now = play(rate, now, 1.0)
    pace = pace_of(rate, now)
    rate.rejected(now - 0.01, now)

    assert pace < 100.0
    assert rate.ceiling_per_s == pytest.approx(pace, rel=0.005)
    assert pace_of(rate, play(rate, now, 0.02)) == pytest.approx(0.95 * pace, rel=0.01)


def test_the_plateau_doubles_up_to_twenty_seconds() -> None:
    """What has been found several times is looked for less often."""
    rate, now, plateaus = LearnedRate("learned", 100.0, START_S), START_S, []
    for _ in range(7):
        plateaus.append(seconds_to_the_ceiling(rate, now))
        now += plateaus[-1]
        rate.rejected(now, now + 0.05)
        now += 0.1

    assert plateaus == pytest.approx([1, 2, 4, 8, 16, 20, 20], rel=0.06)


def test_idle_time_does_not_count() -> None:
    """An hour in which nobody asked says nothing about what the provider would have taken."""
    rate = LearnedRate("learned", 100.0, START_S)
    now = play(rate, START_S, 0.5)
    pace = pace_of(rate, now)
    later_s = play(rate, now + 3600.0, 0.03)

    assert pace_of(rate, later_s) == pytest.approx(pace, rel=0.01)


def test_a_learned_rate_used_by_a_tenth_does_not_climb_as_if_it_were_used_in_full() -> None:
    """Ten a second for three seconds where a hundred might go: no more than a fifth of that counts."""
    rate = LearnedRate("learned", 100.0, START_S)
    for n in range(30):
        rate.take(1.0, START_S + n / 10)

    assert pace_of(rate, START_S + 3.0) < 100.0


@pytest.mark.parametrize("accepted_per_s", [1e-9, 0.05, 0.11])
def test_a_learned_rate_never_stops(accepted_per_s: float) -> None:
    """A tenth of a request a second, less the five percent, is the least, whatever is rejected."""
    rate, now = LearnedRate("learned", accepted_per_s, START_S), START_S
    for _ in range(60):
        rate.take(1.0, now)
        now = max(now, rate.ready_at(1.0, now))
        rate.rejected(now, now + 0.05)
        now += 0.1

    assert rate.ceiling_per_s >= 0.1
    assert pace_of(rate, now) >= 0.0949


@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_push_back_that_does_not_depend_on_the_rate_does_not_hold_it_down_for_good(share: float) -> None:
    """That share is rejected however few are sent: within a minute it is borne and the rate set free."""
    rate, random, now, sent = LearnedRate("learned", 300.0, START_S), Random(1), START_S, deque[float]()
    fastest = 0.0
    while now < START_S + 60.0 and fastest < 1000.0:
        rate.take(1.0, now)
        sent.append(now)
        now = max(now, rate.ready_at(1.0, now))
        while sent and sent[0] + LATENCY_S <= now:
            sent_s = sent.popleft()
            if random.random() < share:
                rate.rejected(sent_s, sent_s + LATENCY_S)
        fastest = max(fastest, rate.ceiling_per_s)

    assert fastest >= 1000.0


@dataclass(slots=True)
class _Server:
    """What a provider with a rate that it tells nobody did with the requests, each at the moment when it arrived."""

    policy: str
    burst: float | None
    accepted: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)

    def judge_with(
        self, scheduler: Scheduler, now: Callable[[], float]
    ) -> Callable[[Request, Endpoint], tuple[Tokens, float | None]]:
        limit = POLICIES[self.policy](ServerRate(PER_SECOND, 1.0, self.burst))

        def judge(request: Request, endpoint: Endpoint) -> tuple[Tokens, float | None]:
            arrived_s = now() - LATENCY_S / 2
            wait_s = limit.admit(1.0, arrived_s)
            if not wait_s:
                self.accepted.append(arrived_s)
                scheduler.answered(request, endpoint, LATENCY_S)
                return NO_TOKENS, None
            self.rejected.append(arrived_s)
            endpoint.cool_down.rejected(request.sent_s)
            endpoint.rejected(request.sent_s, wait_s, now())
            return NO_TOKENS, 0.0

        return judge


def run_against(server: _Server, requests: int = REQUESTS) -> Driver:
    """A whole run through a scheduler that was told no limit but 256 in flight; wake-ups are up to 1 ms late."""
    scheduler, random = make_adaptive(), Random(1)
    for number in range(1, requests + 1):
        scheduler.lanes.add(make_request(number))
    judge = server.judge_with(scheduler, lambda: driver.now)
    driver = Driver(scheduler, lambda endpoint: LATENCY_S, judge, lambda: random.uniform(0, 0.001), START_S)
    driver.run()
    return driver


@pytest.mark.parametrize(("policy", "burst"), [("sliding", None), ("fixed", None), ("leaky", 10.0)])
def test_nine_tenths_of_a_rate_that_nobody_named_are_used_and_few_are_rejected(
    policy: str, burst: float | None
) -> None:
    """300 a second, 50 ms away: found within five seconds; but for the first crowd one in a hundred is sent in vain."""
    server = _Server(policy, burst)
    driver = run_against(server)
    settled = [moment for moment in server.accepted if moment >= SETTLED_S]
    in_vain = sum(moment >= SETTLED_S for moment in server.rejected)

    assert sorted(driver.done) == list(range(1, REQUESTS + 1))
    assert len(settled) / (settled[-1] - SETTLED_S) >= 0.9 * PER_SECOND
    assert in_vain <= 0.01 * (len(settled) + in_vain)
    assert len(server.rejected) <= 256 + 0.01 * REQUESTS


@pytest.mark.parametrize(("rps", "learned"), [(40.0, 40.0), (60.0, 50.0), (400.0, 200.0)])
def test_beside_a_set_rate_push_back_teaches_one_between_its_half_and_its_whole(rps: float, learned: float) -> None:
    """Somebody else may use the quota; and what was accepted says little when the endpoint was idle for long."""
    endpoint = Endpoint(0, EndpointSettings(url="http://127.0.0.1/v1", name="e0", rps=rps))
    push_back(endpoint)
    push_back_again(endpoint)

    assert endpoint.learned in endpoint.limits.all()
    assert endpoint.learned is not None
    assert endpoint.learned.ceiling_per_s == pytest.approx(learned, rel=0.06)


@pytest.mark.parametrize("sent_s", [START_S + 0.505, START_S + 1.0 + 5.1])
def test_beside_a_set_rate_push_back_that_comes_once_teaches_none(sent_s: float) -> None:
    """A server that stalls lets a crowd in late. What was sent before the first word of it, or is pushed back long
    after, is no second word.
    """
    endpoint = Endpoint(0, EndpointSettings(url="http://127.0.0.1/v1", name="e0", rps=40.0))
    push_back(endpoint)
    push_back_again(endpoint, sent_s)

    assert endpoint.learned is None


def test_where_no_rate_is_set_push_back_teaches_one() -> None:
    """Slots are no rate."""
    endpoint = Endpoint(0, EndpointSettings(url="http://127.0.0.1/v1", name="e0", concurrency=9))
    push_back(endpoint)

    assert endpoint.learned in endpoint.limits.all()


@pytest.mark.parametrize("options", [{}, {"rps": 90.0}, {"tpm": 1e9}])
def test_push_back_teaches_a_rate_from_what_was_accepted_until_the_pause_ended(options: EndpointOptions) -> None:
    """Fifty answers in the 1 s until it goes on are 50 a second; beside a set rate too, when it is told to."""
    scheduler = make_adaptive(options)
    endpoint = scheduler.endpoints[0]
    push_back(endpoint)
    push_back_again(endpoint)

    assert endpoint.learned is not None
    assert endpoint.learned.ceiling_per_s == pytest.approx(50.0, rel=0.06)
    assert "e0 learned rate" in scheduler.waited(START_S + 10.0)


def test_adaptive_may_be_turned_off_where_no_rate_is_set() -> None:
    """Then nothing is learned."""
    scheduler = make_adaptive({"adaptive": False})
    push_back(scheduler.endpoints[0])

    assert scheduler.endpoints[0].learned is None


def test_a_learned_rate_and_a_set_one_both_hold() -> None:
    """Twenty a second are set, some fifty were accepted."""
    scheduler = make_adaptive({"rps": 20.0})
    push_back(scheduler.endpoints[0])
    push_back_again(scheduler.endpoints[0])
    driver = Driver(scheduler, lambda endpoint: LATENCY_S, now=START_S + 10.0)
    for number in range(1000, 1100):
        scheduler.lanes.add(make_request(number))
    driver.run()

    assert driver.sends[-1][0] - driver.sends[0][0] >= 99 / 20


def push_back(endpoint: Endpoint) -> None:
    """Fifty answers within half a second, then a rejection that asks to wait until one second has passed."""
    for n in range(50):
        sent_s = START_S + n / 100
        endpoint.sent(sent_s)
        endpoint.answered(sent_s, 0.01)
        endpoint.in_flight -= 1
    endpoint.sent(START_S + 0.5)
    endpoint.in_flight -= 1
    endpoint.rejected(START_S + 0.5, 0.49, START_S + 0.51)
    endpoint.sent(START_S + 1.0)
    endpoint.in_flight -= 1


def push_back_again(endpoint: Endpoint, sent_s: float = START_S + 1.0) -> None:
    """What goes next is rejected, too, and what goes after a pause of 10 ms is on its way."""
    endpoint.rejected(sent_s, 0.01, sent_s + 0.01)
    endpoint.sent(sent_s + 0.02)
    endpoint.in_flight -= 1
