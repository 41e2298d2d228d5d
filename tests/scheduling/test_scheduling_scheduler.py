"""Scheduler: both levels bind, nobody waits longer than needed, and everybody knows what for."""

import math
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest

from llmblast.models import NO_TOKENS, Attempt, Tokens
from llmblast.scheduling import Endpoint, Kind, Scheduler, SendOutcome
from llmblast.scheduling.scheduler import COLD_START_S
from tests.scheduling.scheduling_samples import (
    Driver,
    EndpointOptions,
    admit_all,
    end,
    make_answer,
    make_attempt,
    make_request,
    make_scheduler,
    most_within,
    tokens_of,
)


def indices(scheduler: Scheduler, now: float) -> list[int]:
    """Endpoints of everything that may go at `now`."""
    return [endpoint.index for _, endpoint in admit_all(scheduler, now)]


def sends_to(driver: Driver, index: int) -> list[float]:
    """Moments of the sends to one endpoint."""
    return [moment for moment, _, endpoint in driver.sends if endpoint == index]


def half_a_second(endpoint: Endpoint) -> float:
    return 0.5


def test_nothing_queued_means_nothing_to_send_and_no_wake_up() -> None:
    """Only an event changes that."""
    scheduler = make_scheduler([{}])

    assert scheduler.next(0.0) is None
    assert scheduler.wake_at == math.inf


def test_a_waiting_retry_wakes_the_queue_when_it_is_due() -> None:
    """Neither earlier nor later."""
    scheduler = make_scheduler([{}])
    scheduler.queue.add_retry(make_attempt(), due_s=7.0)

    assert scheduler.next(5.0) is None
    assert scheduler.wake_at == 7.0
    assert scheduler.next(7.0) is not None


def test_an_admission_is_noted_in_the_request_and_the_endpoint() -> None:
    """Its moment, what it paid, and the load."""
    scheduler = make_scheduler([{"tpm": 6000}])
    scheduler.queue.add(make_attempt(1, body=b"x" * 1000, max_tokens=100))
    admitted = scheduler.next(3.0)

    assert admitted is not None
    attempt, endpoint = admitted
    assert attempt.sent_s == 3.0
    assert attempt.tokens_paid == pytest.approx((400, 300, 100))
    assert endpoint.traffic.in_flight == 1


def test_run_wide_concurrency_holds_over_all_endpoints() -> None:
    """Two endpoints with ten slots each and five for the run: never more than five, and five are reached."""
    random = Random(6)
    scheduler = make_scheduler([{"concurrency": 10}, {"concurrency": 10}], requests=200, concurrency=5)
    driver = Driver(scheduler, lambda endpoint: random.expovariate(2))
    driver.run()

    assert driver.most_in_flight[None] == 5
    assert len(driver.done) == 200


def test_the_concurrency_of_each_endpoint_holds_below_that_of_the_run() -> None:
    """Two and three slots are five, however many the run would allow."""
    scheduler = make_scheduler([{"concurrency": 2}, {"concurrency": 3}], requests=20, concurrency=100)

    assert sorted(indices(scheduler, 0.0)) == [0, 0, 1, 1, 1]
    assert scheduler.wake_at == math.inf


def test_run_wide_rate_holds_over_all_endpoints() -> None:
    """Two endpoints with ten a second each and five for the run: five a second."""
    scheduler = make_scheduler([{"rps": 10}, {"rps": 10}], requests=50, rps=5)
    driver = Driver(scheduler, half_a_second)
    driver.run()
    moments = [moment for moment, _, _ in driver.sends]

    assert most_within(moments, 1.0) == 5
    assert moments[-1] - moments[0] == pytest.approx(49 / 5 + COLD_START_S, rel=0.01)


def test_the_rate_of_each_endpoint_holds_below_that_of_the_run() -> None:
    """Three and five a second make eight."""
    scheduler = make_scheduler([{"rps": 3}, {"rps": 5}], requests=80, rps=100)
    driver = Driver(scheduler, half_a_second)
    driver.run()

    assert most_within(sends_to(driver, 0), 1.0) == 3
    assert most_within(sends_to(driver, 1), 1.0) == 5
    assert driver.sends[-1][0] - driver.sends[0][0] == pytest.approx(10.0, rel=0.03)


def test_a_request_that_waits_for_an_endpoint_holds_nothing_of_the_run() -> None:
    """Asking a hundred times in vain leaves the limits of the run as they were."""
    scheduler = make_scheduler([{"concurrency": 1}], requests=3, rps=1000, tpm=60_000, concurrency=2)
    first = scheduler.next(0.0)
    assert first is not None
    for step in range(100):
        assert scheduler.next(1.0 + step / 1000) is None
    endpoint = first[1]
    endpoint.limits.release(NO_TOKENS, NO_TOKENS, 2.0)

    assert scheduler.next(2.0) is not None


def test_the_head_of_the_queue_blocks_no_endpoint_that_is_ready() -> None:
    """One a second here, ten a second there: both get all they may have, each evenly."""
    scheduler = make_scheduler([{"rps": 1, "weight": 100}, {"rps": 10}], requests=110)
    driver = Driver(scheduler, half_a_second)
    driver.run()
    slow, fast = sends_to(driver, 0), sends_to(driver, 1)

    assert len(slow) == pytest.approx(10, abs=1)
    assert max(later - earlier for earlier, later in pairwise(fast)) < 0.102 + COLD_START_S
    assert max(later - earlier for earlier, later in pairwise(slow)) < 1.01 + COLD_START_S


def test_weighted_shares_are_exact_when_both_are_ready() -> None:
    """750:250 through the whole scheduler, under a limit of the run."""
    scheduler = make_scheduler([{"weight": 3}, {"weight": 1}], requests=1000, rps=500)
    driver = Driver(scheduler, half_a_second)
    driver.run()

    assert len(sends_to(driver, 0)) == 750
    assert len(sends_to(driver, 1)) == 250


@pytest.mark.parametrize(("heavy", "light"), [(100, 26), (100, 50), (200, 30)])
def test_shares_hold_when_an_endpoint_comes_a_moment_late_for_its_turn(heavy: float, light: float) -> None:
    """The run's 100 a second at 3:1, while the endpoints' own limits are little above their shares."""
    random = Random(7)
    scheduler = make_scheduler([{"weight": 3, "rps": heavy}, {"weight": 1, "rps": light}], requests=4000, rps=100)
    driver = Driver(scheduler, half_a_second, lateness=lambda: random.uniform(0, 0.001))
    driver.run()

    assert len(sends_to(driver, 1)) / 4000 == pytest.approx(0.25, abs=0.02)


def test_the_queue_wakes_at_the_earliest_endpoint() -> None:
    """Not at the first one in the list."""
    scheduler = make_scheduler([{"rps": 1}, {"rps": 4}], requests=5)
    assert indices(scheduler, 0.0) == [0, 1]

    assert scheduler.wake_at == pytest.approx(0.25 + COLD_START_S, rel=0.02)
    assert scheduler.next(scheduler.wake_at - 1e-6) is None
    assert indices(scheduler, scheduler.wake_at) == [1]


def test_the_queue_wakes_when_the_last_limit_of_the_run_lets_go() -> None:
    """Both must be paid."""
    scheduler = make_scheduler([{}], requests=2, rps=4, rpm=60)
    assert len(admit_all(scheduler, 0.0)) == 1

    assert scheduler.wake_at == pytest.approx(1.0 + COLD_START_S, rel=0.02)
    assert scheduler.next(scheduler.wake_at) is not None


@pytest.mark.parametrize("level", ["run", "endpoint"])
def test_the_queue_wakes_for_a_cheap_retry_that_may_go_before_a_dear_head(level: str) -> None:
    """The head waits for tokens until the credit covers it; the retry needs few of them and is due before that."""
    if level == "run":
        scheduler = make_scheduler([{}], tpm=6000, burst_s=10.0)
    else:
        scheduler = make_scheduler([{"tpm": 6000, "burst": 10.0}])
    for number in (1, 2):
        scheduler.queue.add(make_attempt(number, max_tokens=250, body=b"x" * 2000))
    scheduler.queue.add_retry(make_attempt(3, max_tokens=10), due_s=2.0)
    assert [attempt.request.number for attempt, _ in admit_all(scheduler, 0.0)] == [1]
    assert scheduler.wake_at == 2.0

    assert [attempt.request.number for attempt, _ in admit_all(scheduler, 2.0)] == [3]
    assert 7.0 < scheduler.wake_at < 8.0


def test_a_settlement_lets_the_next_one_go_earlier() -> None:
    """The estimate was 1,000 tokens, the answer took 100."""
    scheduler = make_scheduler([{"tpm": 6000}])
    for number in (1, 2):
        scheduler.queue.add(make_attempt(number, max_tokens=10, body=b"x" * 3300))
    admitted = scheduler.next(0.0)
    assert admitted is not None
    assert scheduler.next(0.0) is None
    assert scheduler.wake_at == pytest.approx(10.0, rel=0.02)
    scheduler.release(*admitted, tokens_real=tokens_of(90, 10), now=0.5)

    assert scheduler.next(0.5) is None
    assert scheduler.wake_at == pytest.approx(1.0, rel=0.02)


def test_a_release_frees_the_slots_of_both_levels() -> None:
    """The next one may go at the same moment."""
    scheduler = make_scheduler([{"concurrency": 1}], requests=2, concurrency=1)
    admitted = scheduler.next(0.0)
    assert admitted is not None
    assert scheduler.next(1.0) is None
    scheduler.release(*admitted, tokens_real=NO_TOKENS, now=1.0)

    assert admitted[1].traffic.in_flight == 0
    assert scheduler.next(1.0) is not None


def used_up(indices: Sequence[int], until_s: float = 1001.0) -> Driver:
    """A run in which those endpoints reject everything until then, and say so."""
    quotas = [{"quota": "one"}, {"quota": "one"}, {"quota": "two"}, {}]
    options = [EndpointOptions(rps=10, **quota) for quota in quotas]  # type: ignore[typeddict-item] # two kinds of dict
    scheduler = make_scheduler(options, requests=120)

    def judge(attempt: Attempt, endpoint: Endpoint) -> tuple[Tokens, float | None]:
        if endpoint.index not in indices or driver.now >= until_s:
            return NO_TOKENS, None
        scheduler.on_outcome(attempt, endpoint, SendOutcome(Kind.RATE_LIMITED, wait_s=until_s - driver.now), driver.now)
        return NO_TOKENS, until_s - driver.now

    driver = Driver(scheduler, lambda endpoint: 0.01, judge)
    driver.run()
    return driver


def test_an_endpoint_whose_quota_is_used_up_gets_probes_only_while_the_others_go_on() -> None:
    """Then it comes back at its moment and at its paced rate, not with a crowd."""
    driver = used_up([2])
    held, other = sends_to(driver, 2), sends_to(driver, 3)

    assert len([moment for moment in held if moment < 1001.0]) <= 6
    assert any(1001.0 <= moment < 1001.05 for moment in held)
    assert most_within(held, 0.09) == 1
    assert max(later - earlier for earlier, later in pairwise(other)) < 0.102 + COLD_START_S


def test_a_quota_group_is_held_back_as_a_whole() -> None:
    """One of the account meets the end of the quota; the other one waits, too, and a third account never notices."""
    driver = used_up([0, 1])
    in_group = sorted(sends_to(driver, 0) + sends_to(driver, 1))

    assert len([moment for moment in in_group if moment < 1001.0]) <= 8
    for index in (2, 3):
        assert max(later - earlier for earlier, later in pairwise(sends_to(driver, index))) < 0.102 + COLD_START_S


def test_endpoints_without_a_quota_group_share_nothing() -> None:
    """Nor does a group share more than what holds it back."""
    scheduler = make_scheduler([{}, {}, {"quota": "one", "concurrency": 1}, {"quota": "one", "concurrency": 1}], 4)
    first, second, third, fourth = scheduler.endpoints
    scheduler.on_outcome(make_attempt(9), first, SendOutcome(Kind.RATE_LIMITED, wait_s=None), 0.0)

    assert [endpoint.hold.push_back.is_held for endpoint in (first, second, third)] == [True, False, False]
    assert third.hold.push_back is fourth.hold.push_back
    assert indices(scheduler, 0.01) == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("options", "wait_s", "settled_s"),
    [
        ({"otpm": 6000, "charge": "max_tokens"}, 10.0, 10.0),
        ({"otpm": 6000, "charge": "usage"}, 2.56, 0.1),
        ({"itpm": 6000, "charge": "max_tokens"}, 3.0, 2.0),
        ({"itpm": 6000, "charge": "usage"}, 3.0, 2.0),
        ({"tpm": 6000, "charge": "max_tokens"}, 13.0, 12.0),
        ({"tpm": 6000, "charge": "usage"}, 5.56, 2.1),
    ],
)
def test_an_endpoint_is_charged_as_its_provider_charges(
    options: EndpointOptions, wait_s: float, settled_s: float
) -> None:
    """1,000 bytes and `max_tokens` 1000; the answer counts 200 in and 10 out. The follower waits at 100 a second."""
    scheduler = make_scheduler([options])
    for number in (1, 2):
        scheduler.queue.add(make_attempt(number, body=b"x" * 1000, max_tokens=1000))
    admitted = scheduler.next(0.0)
    assert admitted is not None
    attempt, endpoint = admitted
    assert scheduler.next(0.0) is None
    before_s = scheduler.wake_at
    scheduler.release(attempt, endpoint, endpoint.learned.estimator.count_tokens(attempt, make_answer(200, 10)), 0.05)
    assert scheduler.next(0.05) is None

    assert before_s == pytest.approx(wait_s, rel=0.01)
    assert scheduler.wake_at == pytest.approx(settled_s, rel=0.01, abs=0.003)


def test_the_requests_of_a_day_are_an_endpoints_own() -> None:
    """When one has had its three, the rest goes to the other; when both have, the queue sleeps until tomorrow."""
    scheduler = make_scheduler([{"rpd": 3}, {"rpd": 5}], requests=10)
    sent = indices(scheduler, 0.0)

    assert sorted(sent) == [0] * 3 + [1] * 5
    assert scheduler.wake_at == pytest.approx(24 * 3600, rel=0.001)
    assert scheduler.wake_at > 24 * 3600


def test_a_disabled_endpoint_gets_nothing() -> None:
    """What is in flight there may still end."""
    scheduler = make_scheduler([{"weight": 10}, {}], requests=20)
    admitted = scheduler.next(0.0)
    assert admitted is not None
    scheduler.pool.disable(scheduler.endpoints[0], "HTTP 401")
    scheduler.release(*admitted, tokens_real=NO_TOKENS, now=1.0)

    assert set(indices(scheduler, 1.0)) == {1}
    assert scheduler.endpoints[0].traffic.in_flight == 0
    assert not scheduler.pool.is_exhausted


@pytest.mark.parametrize("tpm", [None, 1000])
def test_without_any_endpoint_nothing_can_be_sent(tpm: float | None) -> None:
    """No moment would change that."""
    scheduler = make_scheduler([{} if tpm is None else {"tpm": tpm}, {}], requests=1)
    for endpoint in scheduler.endpoints:
        scheduler.pool.disable(endpoint, "HTTP 401")

    assert scheduler.pool.is_exhausted
    assert scheduler.next(0.0) is None
    assert scheduler.wake_at == math.inf
    assert len(scheduler.queue) == 1


def test_an_open_breaker_lets_one_probe_go_at_a_time() -> None:
    """The rest waits in the queue, not in the errors."""
    scheduler = make_scheduler([{}], requests=10)
    endpoint = scheduler.endpoints[0]
    for _ in range(3):
        end(endpoint, Kind.UNREACHABLE, 0.0, 0.0)
    assert scheduler.next(0.5) is None
    assert scheduler.wake_at == 1.0
    assert len(admit_all(scheduler, 1.0)) == 1
    assert scheduler.wake_at == math.inf
    endpoint.health.breaker.record_success()

    assert len(admit_all(scheduler, 1.1)) == 9


def test_waiting_is_booked_on_the_limit_that_held() -> None:
    """Half a second for the rate of the run, then one for a slot at the endpoint."""
    scheduler = make_scheduler([{"concurrency": 2}], requests=3, rps=2)
    first = scheduler.next(0.0)
    assert first is not None
    assert scheduler.next(0.0) is None
    assert scheduler.next(0.6) is not None
    assert scheduler.next(1.2) is None
    scheduler.release(*first, tokens_real=NO_TOKENS, now=2.2)
    assert scheduler.next(2.2) is not None

    waited = scheduler.waited(10.0)
    assert waited["run rps"] == pytest.approx(0.6)
    assert waited["e0 concurrency"] == pytest.approx(1.0)
    assert sum(waited.values()) == pytest.approx(1.6)


def test_waiting_that_goes_on_is_counted_up_to_now() -> None:
    """And not twice when asked twice."""
    scheduler = make_scheduler([{"concurrency": 1}], requests=2)
    scheduler.next(0.0)
    scheduler.next(0.0)
    wake_at = scheduler.wake_at

    assert scheduler.waited(1.5)["e0 concurrency"] == 1.5
    assert scheduler.waited(2.0)["e0 concurrency"] == 2.0
    assert scheduler.wake_at == wake_at


def test_waiting_for_the_files_is_no_limits_fault() -> None:
    """While nothing can be written the rate's time does not go on; afterwards it does, if it still holds."""
    scheduler = make_scheduler([{"rps": 0.1}], requests=3)
    scheduler.next(0.0)
    assert scheduler.next(0.0) is None
    scheduler.wait_for_output(1.0)
    scheduler.wait_for_output(3.0)
    assert scheduler.next(5.0) is None

    waited = scheduler.waited(7.0)
    assert waited["output"] == pytest.approx(4.0)
    assert waited["e0 rps"] == pytest.approx(3.0)


def test_an_empty_queue_waits_for_nobody() -> None:
    """A slow input is not the fault of a limit."""
    scheduler = make_scheduler([{"rps": 1}], requests=1)
    scheduler.next(0.0)
    scheduler.next(0.0)
    scheduler.next(100.0)

    assert sum(scheduler.waited(100.0).values()) == 0.0


def test_the_largest_estimate_is_paid_and_settled_at_both_levels() -> None:
    """The endpoint is chosen after the price is known, so the price must suit each."""
    scheduler = make_scheduler([{}, {}], tpm=6000)
    for _ in range(400):
        scheduler.endpoints[1].learned.estimator.learn(make_request(body=b"x" * 100), make_answer(100, 0))
    scheduler.queue.add(make_attempt(1, body=b"x" * 1000, max_tokens=0))
    admitted = scheduler.next(0.0)

    assert admitted is not None
    assert admitted[0].tokens_paid == pytest.approx((1000, 1000, 0), rel=0.01)


@pytest.mark.parametrize("level", ["run", "endpoint"])
def test_a_retry_that_comes_due_does_not_wake_a_paced_queue(level: str) -> None:
    """It may cost fewer tokens than what it goes before, but the pace holds it all the same."""
    if level == "run":
        scheduler = make_scheduler([{}], 2, tpm=6_000_000, rps=10)
    else:
        scheduler = make_scheduler([{"rps": 10}], 2, tpm=6_000_000)
    admitted = scheduler.next(0.0)
    assert admitted is not None
    scheduler.queue.add_retry(admitted[0], due_s=0.05)

    assert scheduler.next(0.01) is None
    assert scheduler.wake_at == pytest.approx(0.1 + COLD_START_S, rel=0.02)
    assert scheduler.next(0.06) is None
    assert scheduler.next(scheduler.wake_at) is not None
