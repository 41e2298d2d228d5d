"""Concurrency, breaker, and sets of limits."""

import math

import pytest

from llmblast.endpoint_settings import EndpointSettings, RateSettings
from llmblast.models import NO_TOKENS
from llmblast.scheduling import Breaker, Concurrency, Endpoint, LimitSet, Rate, RollingQuota, limit_set
from tests.scheduling.scheduling_samples import make_endpoint, tokens_of

DAY_S = 24 * 3600.0


def opened_breaker(now: float = 0.0) -> Breaker:
    breaker = Breaker("breaker")
    for _ in range(3):
        breaker.acquire(1.0, now)
        breaker.record_failure(now, now)
    return breaker


def test_concurrency_lets_as_many_go_as_it_has_slots() -> None:
    """Nobody knows when a slot frees, so the moment is infinity."""
    limit = Concurrency("concurrency", 2)
    limit.acquire(1.0, 0.0)
    assert limit.ready_at(1.0, 5.0) == 5.0
    limit.acquire(1.0, 0.0)

    assert limit.ready_at(1.0, 5.0) == math.inf


def test_a_settlement_frees_a_slot() -> None:
    """One in, one out."""
    limit = Concurrency("concurrency", 1)
    limit.acquire(1.0, 0.0)
    limit.settle(1.0, 0.0, 1.0)

    assert limit.ready_at(1.0, 1.0) <= 1.0


def test_a_breaker_opens_after_three_failures_in_a_row() -> None:
    """Two do nothing, and an answer between them starts the count anew."""
    breaker = Breaker("breaker")
    breaker.record_failure(1.0)
    breaker.record_failure(2.0)
    breaker.record_success()
    breaker.record_failure(3.0)
    breaker.record_failure(4.0)
    assert breaker.ready_at(1.0, 4.0) <= 4.0
    was_open = breaker.is_open
    breaker.record_failure(5.0)

    assert (was_open, breaker.is_open) == (False, True)
    assert breaker.ready_at(1.0, 5.0) == 6.0


def test_a_breaker_probes_one_at_a_time() -> None:
    """While the probe is under way nobody else goes."""
    breaker = opened_breaker()
    breaker.acquire(1.0, 1.0)

    assert breaker.ready_at(1.0, 500.0) == math.inf


def test_the_wait_for_a_probe_doubles_up_to_half_a_minute() -> None:
    """1, 2, 4, 8, 16, 30, 30 seconds."""
    breaker, waits, now = opened_breaker(), [], 0.0
    for _ in range(7):
        probe_s = breaker.ready_at(1.0, now)
        waits.append(probe_s - now)
        breaker.acquire(1.0, probe_s)
        now = probe_s + 0.5
        breaker.record_failure(now, probe_s)

    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_an_answer_closes_a_breaker_and_resets_its_wait() -> None:
    """The next outage starts with one second again."""
    breaker = opened_breaker()
    breaker.acquire(1.0, 1.0)
    breaker.record_failure(1.5, 1.0)
    had_answered = breaker.has_answered
    breaker.record_success()

    assert (had_answered, breaker.has_answered) == (False, True)
    assert not breaker.is_open
    assert breaker.ready_at(1.0, 1.5) <= 1.5
    for _ in range(3):
        breaker.record_failure(2.0)
    assert breaker.ready_at(1.0, 2.0) == 3.0


def test_failures_of_requests_sent_before_it_opened_do_not_lengthen_the_wait() -> None:
    """A hundred were in flight when the endpoint went down."""
    breaker = opened_breaker()
    for _ in range(100):
        breaker.record_failure(0.9, -1.0)

    assert breaker.ready_at(1.0, 0.9) == 1.0


def test_a_late_failure_is_not_taken_for_that_of_the_probe() -> None:
    """It was sent before: the probe is still under way, and only its own end counts."""
    breaker = opened_breaker()
    breaker.acquire(1.0, 1.0)
    breaker.record_failure(1.2, -1.0)
    breaker.record_inconclusive(1.2, -1.0)
    assert breaker.ready_at(1.0, 1.2) == math.inf
    breaker.record_failure(4.0, 1.0)

    assert breaker.ready_at(1.0, 4.0) == 6.0


def test_an_abandoned_probe_lets_another_one_go() -> None:
    """It told nothing about the endpoint, so the wait is not lengthened."""
    breaker = opened_breaker()
    breaker.acquire(1.0, 1.0)
    breaker.record_inconclusive(1.5, 1.0)
    assert breaker.ready_at(1.0, 1.5) == 1.5
    breaker.acquire(1.0, 1.5)
    assert breaker.ready_at(1.0, 1.5) == math.inf
    breaker.record_failure(2.0, 1.5)

    assert breaker.ready_at(1.0, 2.0) == 4.0


def test_an_abandonment_means_nothing_to_a_closed_breaker() -> None:
    """Most requests that break off are no probes."""
    breaker = Breaker("breaker")
    breaker.acquire(1.0, 1.0)
    breaker.record_inconclusive(1.0)
    breaker.record_success()
    breaker.settle(1.0, 0.0, 1.0)

    assert breaker.ready_at(1.0, 0.0) == -math.inf


def test_a_set_is_ready_when_all_of_its_limits_are() -> None:
    """One limit that says no is enough, whichever kind it is."""
    limits = limit_set("run", RateSettings(rps=10, tpm=6000, concurrency=1), burst_s=0.0)
    tokens = tokens_of(60, 40)
    assert limits.is_ready(tokens, 5.0)
    limits.acquire(tokens, 5.0)

    assert not limits.is_ready(tokens, 5.5)
    limits.release(tokens, tokens, 5.5)
    assert not limits.is_ready(tokens, 5.5)
    assert limits.is_ready(tokens, 6.1)


def test_a_set_pays_all_of_its_limits() -> None:
    """Requests cost one, tokens what they are."""
    requests, tokens, slots = Rate("rps", 1), Rate("tpm", 100), Concurrency("slots", 1)
    limits = LimitSet(per_request=[requests], total=[tokens], slots=[slots])
    limits.acquire(tokens_of(300, 200), 0.0)

    assert 0.99 < requests.ready_at(1.0, 0.0) < 1.01
    assert 4.9 < tokens.ready_at(500.0, 0.0) < 5.1
    assert slots.ready_at(1.0, 0.0) == math.inf
    assert limits.all() == (slots, requests, tokens)


def test_a_release_gives_back_the_slot_and_the_tokens_but_not_the_request() -> None:
    """A request that was sent has used the request rate, whatever became of it."""
    requests, tokens, slots = Rate("rps", 1), Rate("tpm", 100), Concurrency("slots", 1)
    limits = LimitSet(per_request=[requests], total=[tokens], slots=[slots])
    limits.acquire(tokens_of(300, 200), 0.0)
    limits.release(tokens_of(300, 200), NO_TOKENS, 0.0)

    assert requests.ready_at(1.0, 0.0) > 0.99
    assert tokens.ready_at(1.0, 0.0) <= 0.0
    assert slots.ready_at(1.0, 0.0) <= 0.0


def test_the_last_ready_limit_is_the_one_that_holds() -> None:
    """Its name is what a person sees as the reason for waiting."""
    limits = limit_set("run", RateSettings(rps=10, rpm=60), burst_s=0.0)
    limits.acquire(NO_TOKENS, 0.0)
    at, limit = limits.last_ready(NO_TOKENS, 0.0)

    assert limit.name == "run rpm"
    assert 0.99 < at < 1.01
    assert not limits.is_ready(NO_TOKENS, at - 1e-6)
    assert limits.is_ready(NO_TOKENS, at)


def test_a_set_without_limits_is_always_ready() -> None:
    """A run needs no limits of its own."""
    limits = limit_set("run", RateSettings(), burst_s=0.0)
    limits.acquire(tokens_of(1e9, 1e9), 0.0)

    assert limits.is_ready(tokens_of(1e9, 1e9), 0.0)
    assert not limits.counts_tokens
    assert limits.all() == ()


@pytest.mark.parametrize("settings", [RateSettings(tpm=1), RateSettings(itpm=1), RateSettings(otpm=1)])
def test_a_limit_of_any_kind_of_tokens_needs_an_estimate(settings: RateSettings) -> None:
    """Requests alone need none."""
    assert limit_set("run", settings, burst_s=0.0).counts_tokens
    assert not limit_set("run", RateSettings(rps=1, rpm=1, rpd=1, concurrency=1), burst_s=0.0).counts_tokens


@pytest.mark.parametrize(
    ("settings", "wait_s"),
    [(RateSettings(tpm=6000), 5.0), (RateSettings(itpm=6000), 3.0), (RateSettings(otpm=6000), 2.0)],
)
def test_a_token_limit_is_charged_and_settled_with_its_kind(settings: RateSettings, wait_s: float) -> None:
    """Of 300 in and 200 out, a hundredth of each was used: at 100 a second the follower waits as long as it says."""
    limits = limit_set("run", settings, burst_s=0.0)
    limits.acquire(tokens_of(300, 200), 0.0)
    at, limit = limits.last_ready(NO_TOKENS, 0.0)
    limits.release(tokens_of(300, 200), tokens_of(3, 2), 0.0)
    settled_at, _ = limits.last_ready(NO_TOKENS, 0.0)

    assert limit.name == f"run {next(kind for kind in ('tpm', 'itpm', 'otpm') if getattr(settings, kind))}"
    assert at == pytest.approx(wait_s, rel=0.01)
    assert settled_at == pytest.approx(wait_s / 100, abs=0.003)


def test_token_limits_of_all_kinds_bind_together() -> None:
    """Each is full at another time, the last one decides."""
    limits = limit_set("run", RateSettings(tpm=6000, itpm=600, otpm=3000), burst_s=0.0)
    limits.acquire(tokens_of(10, 200), 0.0)

    assert limits.last_ready(NO_TOKENS, 0.0)[1].name == "run otpm"
    assert not limits.is_ready(NO_TOKENS, 3.9)
    assert limits.is_ready(NO_TOKENS, 4.1)


def test_requests_per_day_go_at_once_and_never_come_back_within_the_day() -> None:
    """An unanswered request was a request all the same."""
    limits = limit_set("run", RateSettings(rpd=3), burst_s=0.0)
    for _ in range(3):
        assert limits.is_ready(NO_TOKENS, 5.0)
        limits.acquire(NO_TOKENS, 5.0)
        limits.release(NO_TOKENS, NO_TOKENS, 5.0)

    assert limits.last_ready(NO_TOKENS, 5.0)[1].name == "run rpd"
    assert not limits.is_ready(NO_TOKENS, 5.0 + DAY_S)
    assert limits.is_ready(NO_TOKENS, 5.0 + DAY_S + 60.0)


def test_a_limit_per_minute_is_spread_over_the_minute() -> None:
    """120 a minute is one every half second."""
    limits = limit_set("run", RateSettings(rpm=120), burst_s=0.0)
    limits.acquire(NO_TOKENS, 0.0)

    assert 0.5 <= limits.last_ready(NO_TOKENS, 0.0)[0] < 0.51


def test_an_endpoint_says_what_is_the_matter_with_it() -> None:
    """The gravest thing first, nothing when all is well."""
    endpoint = make_endpoint()
    assert endpoint.state(0.0) == ""
    for n in range(4):
        endpoint.hold.push_back.on_rejected(n / 1000, 30.0, n / 1000)
    endpoint.hold.push_back.acquire(1.0, 0.3)
    endpoint.hold.push_back.on_rejected(0.3, 30.0, 0.301)
    assert endpoint.state(2.0).startswith("paused")
    for _ in range(3):
        endpoint.health.breaker.record_failure(0.0)
    assert endpoint.state(2.0).startswith("down, ")
    endpoint.health.disabled = "401"
    assert endpoint.state(2.0) == "off: 401"


def test_an_endpoint_has_its_own_burst_or_that_of_the_run() -> None:
    """An explicit zero is one of its own."""
    own = Endpoint(0, EndpointSettings(url="http://127.0.0.1/v1", name="own", rps=1, burst=0.0), burst_s=5.0)
    inherited = Endpoint(1, EndpointSettings(url="http://127.0.0.1/v1", name="inherited", rps=1), burst_s=5.0)
    for endpoint in (own, inherited):
        endpoint.limits.acquire(NO_TOKENS, 0.0)

    assert not own.limits.is_ready(NO_TOKENS, 0.0)
    assert inherited.limits.is_ready(NO_TOKENS, 0.0)


@pytest.mark.parametrize(
    ("units", "free_s"),
    [(4, 0.0), (5, 9.0), (10, 9.0), (14, 10.0), (24, 20.0), (34, 30.0)],
    ids=["what is left", "one of the first", "all of the first", "a whole window", "two windows", "three windows"],
)
def test_a_quota_tells_when_it_will_have_let_so_many_go(units: int, free_s: float) -> None:
    """10 in 10 s, 6 of which were used a second ago: what is still free is used now."""
    quota = RollingQuota("run rpd", 10, 10.0, slots=10_000)
    quota.acquire(6, 99.0)

    assert quota.free_at(units, 100.0) - 100.0 == pytest.approx(free_s, abs=0.01)
