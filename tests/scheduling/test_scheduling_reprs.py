"""What a person sees of a limit in a log or a debugger: its name and its state."""

import pytest

from llmblast.models import RateLimitInfo
from llmblast.scheduling import AdaptiveConcurrency, Breaker, LearnedRate, PushBack
from llmblast.scheduling.advertised_rate import AdvertisedRate
from llmblast.scheduling.learned_concurrency import LearnedConcurrency
from llmblast.scheduling.refusals import RefusalBreaker


def open_breaker(*, is_probing: bool = False) -> Breaker:
    breaker = Breaker("a")
    breaker.trip(0.0)
    if is_probing:
        breaker.acquire(1.0, 5.0)
    return breaker


def held_push_back(*, probes: int) -> PushBack:
    push_back = PushBack("a")
    push_back.acquire(1.0, 0.0)
    push_back.on_rejected(0.0, None, 0.01)
    for n in range(probes):
        push_back.acquire(1.0, 1.0 + n)
        push_back.on_rejected(1.0 + n, None, 1.01 + n)
    return push_back


def exhausted_rate(times: int) -> LearnedRate:
    rate = LearnedRate("a")
    rate.start(0.0, 100)
    for n in range(times):
        rate.on_exhausted(1.0 + n, 1.5 + n)
    return rate


def bucket_rate() -> AdvertisedRate:
    rate = AdvertisedRate("a")
    for n in range(1, 4):
        info = RateLimitInfo("requests", 100.0, 60.0 - 10 * n, 40.0 + 10 * n, 0.1)
        rate.on_rate_limit_headers(info, 10.0 * n, 10.0 * n + 1)
    return rate


@pytest.mark.parametrize(
    ("limit", "state"),
    [
        (Breaker("a"), "closed, 0 failures in a row"),
        (open_breaker(), "open, 3 failures in a row"),
        (open_breaker(is_probing=True), "probing, 3 failures in a row"),
        (RefusalBreaker("a"), "closed, 0 lines in a row"),
        (PushBack("a"), "free"),
        (held_push_back(probes=0), "held"),
        (held_push_back(probes=6), "held for a quota that is used up"),
        (AdaptiveConcurrency("a", 9), "opening, 0 of 4 in flight"),
        (LearnedConcurrency("a"), "no cap known, 0 of inf in flight"),
        (LearnedConcurrency("a", 7), "at the cap, 0 of 7 in flight"),
        (exhausted_rate(0), "free, inf a second"),
        (exhausted_rate(1), "holding, 96 a second"),
        (AdvertisedRate("a"), "unknown kind, inf a second"),
        (bucket_rate(), "token bucket, 0.58 a second"),
    ],
    ids=str,
)
def test_a_limit_shows_its_name_and_its_state(limit: object, state: str) -> None:
    """In one line."""
    assert repr(limit) == f"{type(limit).__name__}('a', {state})"
