"""Whole runs against a fake clock: nothing is lost, nothing exceeded, nothing starves."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import NO_TOKENS, Attempt, Tokens
from llmblast.scheduling import ROUTES, Endpoint, Kind, SendOutcome
from tests.scheduling.scheduling_samples import (
    Driver,
    EndpointOptions,
    Levels,
    make_attempt,
    make_scheduler,
    most_within,
    tokens_of,
)

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

REQUESTS = 120
PAUSE_S = 0.7
PER_SECOND = st.sampled_from([1.0, 3.0, 20.0, 250.0])
PER_MINUTE = st.sampled_from([60_000.0, 600_000.0])
SLOTS = st.integers(1, 12)


@st.composite
def endpoint_options(draw: st.DrawFn) -> EndpointOptions:
    options: EndpointOptions = {"weight": draw(st.integers(1, 5)), "adaptive": draw(st.booleans())}
    if draw(st.booleans()):
        options["rps"] = draw(PER_SECOND)
    if draw(st.booleans()):
        options["concurrency"] = draw(SLOTS)
    if draw(st.booleans()):
        options["tpm"] = draw(PER_MINUTE)
    if draw(st.booleans()):
        options["itpm"] = draw(PER_MINUTE)
    if draw(st.booleans()):
        options["otpm"] = draw(PER_MINUTE)
    if draw(st.booleans()):
        options["quota"] = draw(st.sampled_from(["one", "two"]))
    return options


@st.composite
def run_levels(draw: st.DrawFn) -> Levels:
    levels: Levels = {}
    if draw(st.booleans()):
        levels["rps"] = draw(PER_SECOND)
    if draw(st.booleans()):
        levels["concurrency"] = draw(SLOTS)
    if draw(st.booleans()):
        levels["tpm"] = draw(PER_MINUTE)
    if draw(st.booleans()):
        levels["otpm"] = draw(PER_MINUTE)
    return levels


@settings(deadline=None, max_examples=120)
@given(
    st.lists(endpoint_options(), min_size=1, max_size=4),
    run_levels(),
    st.sampled_from(sorted(ROUTES)),
    st.floats(0, 0.4),
    st.integers(0, 2**32),
)
def test_every_request_ends_once_and_no_limit_is_exceeded(
    endpoints: list[EndpointOptions], levels: Levels, route: str, retry_share: float, seed: int
) -> None:
    """Random latencies, sizes, failures and push-back under both levels; the driver fails when the queue would hang."""
    random = Random(seed)

    def judge(attempt: Attempt, endpoint: Endpoint) -> tuple[Tokens, float | None]:
        if random.random() < retry_share:
            if random.random() < 0.3:
                rejected = SendOutcome(Kind.RATE_LIMITED, wait_s=random.choice([None, PAUSE_S]))
                scheduler.on_outcome(attempt, endpoint, rejected, driver.now)
            return NO_TOKENS, random.expovariate(1)
        _, prompt, output = attempt.tokens_paid
        return tokens_of(prompt * random.uniform(0.2, 1.2), output * random.uniform(0.2, 1.2)), None

    scheduler = make_scheduler(endpoints, route=route, **levels)
    for number in range(1, REQUESTS + 1):
        body = b"x" * random.randrange(2000)
        scheduler.queue.add(make_attempt(number, body=body, max_tokens=random.randrange(1, 400)))
    driver = Driver(scheduler, lambda endpoint: random.expovariate(1), judge, lambda: random.uniform(0, 0.001))
    driver.run()

    assert sorted(driver.done) == list(range(1, REQUESTS + 1))
    assert len(scheduler.queue) == scheduler.queue.size_bytes == 0
    assert driver.most_in_flight[None] <= levels.get("concurrency", math.inf)
    moments = [moment for moment, _, _ in driver.sends]
    assert most_within(moments, 1.0) <= levels.get("rps", math.inf)
    for endpoint, options in zip(scheduler.endpoints, endpoints, strict=True):
        mine = [moment for moment, _, index in driver.sends if index == endpoint.index]
        assert endpoint.traffic.in_flight == 0
        assert driver.most_in_flight.get(endpoint.index, 0) <= options.get("concurrency", math.inf)
        assert most_within(mine, 1.0) <= options.get("rps", math.inf)


def test_retries_do_not_starve_what_is_new() -> None:
    """Half of all sends fail and come back at once, and yet the last line of the file has its turn."""
    random = Random(8)

    def judge(attempt: Attempt, endpoint: Endpoint) -> tuple[Tokens, float | None]:
        return NO_TOKENS, (0.0 if random.random() < 0.5 else None)

    scheduler = make_scheduler([{"rps": 50}], requests=500)
    driver = Driver(scheduler, lambda endpoint: 0.3, judge)
    driver.run(until_s=25)

    assert len(driver.done) == 500


def test_every_endpoint_has_its_share_over_a_long_run() -> None:
    """Slots and rates differ; each still gets at least nine tenths of what its weight or its limit gives."""
    random = Random(9)
    scheduler = make_scheduler(
        [{"weight": 5, "rps": 60}, {"weight": 3, "concurrency": 40}, {"weight": 2, "rps": 25}], requests=6000, rps=100
    )
    driver = Driver(scheduler, lambda endpoint: random.expovariate(2), lateness=lambda: random.uniform(0, 0.0001))
    driver.run()
    sent = Counter(index for _, _, index in driver.sends)

    assert driver.sends[-1][0] - driver.sends[0][0] <= 6000 / 99
    assert sent[0] >= 0.9 * 3000
    assert sent[1] >= 0.9 * 1800
    assert sent[2] >= 0.9 * 1200
