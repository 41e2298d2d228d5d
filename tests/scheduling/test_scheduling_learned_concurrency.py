"""An endpoint that limits the number in flight is recognised as one, and no other is taken for one."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.scheduling.learned_concurrency import LearnedConcurrency
from tests.scheduling.push_back_simulation import (
    ConcurrencyLimit,
    FullQueue,
    Noise,
    Options,
    Simulation,
    TokenBucket,
    exactly,
)


def make_known(cap: int) -> LearnedConcurrency:
    concurrency = LearnedConcurrency("in flight")
    for moment in range(3):
        concurrency.on_answer(cap, moment, moment)
        concurrency.on_rejected(cap + 1, moment + 0.1, moment + 0.2)
    return concurrency


def test_three_moments_of_rejections_above_all_answers_show_a_cap() -> None:
    concurrency = make_known(3)
    assert concurrency.cap == 3
    for _ in range(3):
        concurrency.acquire(1, 5.0)
    assert concurrency.ready_at(1, 5.0) == math.inf


def test_rejections_of_one_moment_show_nothing() -> None:
    concurrency = LearnedConcurrency("in flight")
    concurrency.on_answer(3, 0.0, 0.5)
    for in_flight in range(4, 20):
        assert not concurrency.on_rejected(in_flight, 1.0, 1.1)
    assert not concurrency.is_known


def test_a_rejection_with_as_many_in_flight_as_were_answered_refutes_the_suspicion() -> None:
    concurrency = LearnedConcurrency("in flight")
    concurrency.on_answer(5, 0.0, 0.5)
    concurrency.on_rejected(6, 1.0, 1.1)
    assert concurrency.is_suspected
    concurrency.on_rejected(4, 2.0, 2.1)
    assert not concurrency.is_suspected


def test_rejections_at_the_cap_lower_it_once_and_then_refute_it() -> None:
    concurrency = make_known(3)
    caps = []
    for moment in range(6):
        assert not concurrency.on_rejected(2, 10.0 + moment, 10.1 + moment)
        caps.append(concurrency.cap)
    assert caps == [3, 3, 2, 2, 2, math.inf]


def test_more_are_tried_ever_more_rarely() -> None:
    concurrency = make_known(3)
    tried = []
    for answer in range(500):
        concurrency.on_answer(3, 10.0 + answer, 10.5 + answer)
        concurrency.acquire(3, 10.5 + answer)
        if concurrency.ready_at(1, 10.5 + answer) < math.inf:
            tried.append(answer)
            assert concurrency.on_rejected(4, 10.5 + answer, 10.6 + answer)
        concurrency.settle(3, 0, 10.7 + answer)
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert len(tried) >= 3
    assert gaps == sorted(gaps)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("rejection_s", [0.001, 0.005])
@pytest.mark.parametrize("slots", [100, 256])
def test_three_parallel_requests_are_held_although_a_minute_is_named(
    slots: int, rejection_s: float, sigma: float
) -> None:
    options = Options(lines=100, slots=slots, latency_s=0.5, sigma=sigma, told=exactly, rejection_s=rejection_s)
    simulation = Simulation(ConcurrencyLimit(3), options)
    run = simulation.play()
    assert run.elapsed_s <= 1.3 * 100 * 0.5 / 3
    assert len(run.rejected_s) <= 15
    assert simulation.concurrency.cap == 3


def test_a_full_queue_is_kept_full() -> None:
    simulation = Simulation(FullQueue(4, 12), Options(lines=300, latency_s=0.25))
    run = simulation.play()
    assert run.elapsed_s <= 1.05 * 300 * 0.25 / 4
    assert len(run.rejected_s) <= 0.05 * 300
    assert simulation.concurrency.cap in {16, 17}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latency_s", [0.05, 0.2])
def test_a_token_bucket_and_rejections_at_random_are_no_cap(latency_s: float, seed: int) -> None:
    for server in (TokenBucket(300, 30), Noise(0.2, seed)):
        simulation = Simulation(server, Options(lines=1500, latency_s=latency_s, sigma=0.5, seed=seed))
        simulation.play()
        assert not simulation.concurrency.is_known


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acquire", "settle", "answer", "reject"]),
            st.integers(-5, 1000),
            st.floats(allow_nan=False, allow_infinity=False),
            st.floats(allow_nan=False, allow_infinity=False),
        )
    )
)
def test_no_order_of_events_and_no_number_breaks_it(events: list[tuple[str, int, float, float]]) -> None:
    concurrency = LearnedConcurrency("in flight")
    for kind, in_flight, sent_s, now in events:
        match kind:
            case "acquire":
                concurrency.acquire(1, now)
            case "settle":
                concurrency.settle(1, 0, now)
            case "answer":
                concurrency.on_answer(in_flight, sent_s, now)
            case _:
                concurrency.on_rejected(in_flight, sent_s, now)
        assert concurrency.cap > 0
