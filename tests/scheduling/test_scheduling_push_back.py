"""Push-back tells a used-up quota from a few rejections among many, and probes for the end of a hold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.scheduling.push_back import PushBack
from tests.scheduling.push_back_simulation import (
    Noise,
    Options,
    Outage,
    Run,
    Told,
    Unlimited,
    constant,
    exactly,
    rounded_up,
    simulate,
    untold,
)

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def probes_into(run: Run, end_s: float) -> int:
    return sum(run.heard_s[0] < sent_s < end_s for sent_s in run.sent_s)


def resumed_after(run: Run, end_s: float) -> float:
    return min(sent_s for sent_s in run.accepted_s if sent_s >= end_s) - end_s


def make_busy_gate(sends: int, rejections: int) -> PushBack:
    """Return a gate that knows how many are rejected while others pass."""
    gate = PushBack("gate")
    for n in range(sends):
        gate.acquire(1, n / 10)
        if n % (sends // rejections) == 0:
            gate.on_rejected(n / 10, None, n / 10 + 0.001)
        else:
            gate.on_answer(n / 10)
    return gate


def test_the_first_rejection_holds_and_one_probe_may_go_soon() -> None:
    gate = PushBack("gate")
    gate.acquire(1, 10.0)
    gate.on_rejected(10.0, None, 10.001)
    assert gate.is_held
    assert not gate.is_exhausted
    assert 10.001 < gate.ready_at(1, 10.001) <= 10.1


def test_an_answer_to_a_later_send_ends_a_hold() -> None:
    gate = PushBack("gate")
    gate.acquire(1, 10.0)
    gate.acquire(1, 10.01)
    gate.on_rejected(10.0, None, 10.02)
    assert gate.on_answer(10.01)
    assert not gate.is_held


def test_an_answer_to_an_earlier_send_says_nothing() -> None:
    gate = PushBack("gate")
    gate.acquire(1, 9.9)
    gate.acquire(1, 10.0)
    gate.on_rejected(10.0, None, 10.02)
    assert not gate.on_answer(9.9)
    assert gate.is_held


def test_a_probe_that_is_not_rejected_in_time_ends_a_hold_before_its_answer() -> None:
    gate = PushBack("gate")
    gate.acquire(1, 10.0)
    gate.on_rejected(10.0, None, 10.001)
    probe_s = gate.ready_at(1, 10.001)
    gate.acquire(1, probe_s)
    released_s = gate.ready_at(1, probe_s)
    assert released_s < probe_s + 0.05
    gate.acquire(1, released_s)
    assert not gate.is_held


def test_a_rejection_among_answers_holds_nothing_where_some_are_usual() -> None:
    gate = make_busy_gate(sends=100, rejections=10)
    for n in range(10):
        gate.acquire(1, 20.0 + n / 1000)
    gate.on_rejected(20.0, 1.0, 20.01)
    assert not gate.is_held


def test_a_caller_that_knows_better_ends_the_hold() -> None:
    gate = PushBack("gate")
    gate.acquire(1, 10.0)
    gate.on_rejected(10.0, 60.0, 10.001)
    gate.end_hold()
    assert not gate.is_held
    assert gate.ready_at(1, 10.002) < 10.002


@pytest.mark.parametrize("rejection_s", [0.001, 0.005])
@pytest.mark.parametrize("slots", [100, 256])
@pytest.mark.parametrize(("told", "probes", "late_s"), [(exactly, 3, 0.05), (rounded_up, 3, 0.05), (untold, 8, 0.3)])
def test_a_quota_that_is_used_up_for_two_seconds_gets_few_probes(
    told: Told, probes: int, late_s: float, slots: int, rejection_s: float
) -> None:
    """At full speed, some thousands a second."""
    options = Options(lines=50 * slots, slots=slots, told=told, rejection_s=rejection_s)
    run = simulate(Outage(1.0, 3.0), options)
    assert probes_into(run, 3.0) <= probes
    assert resumed_after(run, 3.0) <= late_s


@pytest.mark.parametrize(("told", "probes", "late_s"), [(exactly, 3, 0.05), (rounded_up, 3, 0.05), (untold, 8, 0.3)])
def test_a_slow_run_meets_a_used_up_quota_with_few_probes(told: Told, probes: int, late_s: float) -> None:
    """A set rate of 50 a second is back at once."""
    run = simulate(Outage(1.0, 3.0), Options(lines=200, told=told, set_per_s=50))
    assert probes_into(run, 3.0) <= probes
    assert resumed_after(run, 3.0) <= late_s
    assert run.accepted_within(3.5, 4.5) >= 0.9 * 50


def test_a_named_minute_gets_four_probes() -> None:
    run = simulate(Outage(1.0, 61.0), Options(lines=4000, slots=100, told=exactly))
    assert probes_into(run, 61.0) <= 4
    assert resumed_after(run, 61.0) <= 0.05


def test_an_unnamed_minute_is_probed_ever_more_rarely() -> None:
    run = simulate(Outage(1.0, 61.0), Options(lines=4000, slots=100))
    assert probes_into(run, 61.0) <= 40
    assert resumed_after(run, 61.0) <= 60 / 7


@pytest.mark.parametrize(
    ("share", "told", "used", "sound"),
    [(0.05, untold, 0.65, 18), (0.05, constant(1.0), 0.45, 18), (0.2, untold, 0.3, 17), (0.2, constant(1.0), 0.25, 17)],
)
def test_rejections_at_random_cost_little_throughput(share: float, told: Told, used: float, sound: int) -> None:
    """In nearly all of 20 runs; where a second is named, the last rejected line waits it."""
    options = Options(lines=3000, slots=100, told=told)
    ideal_s = simulate(Unlimited(), options).elapsed_s
    runs = [simulate(Noise(share, seed), options) for seed in range(20)]
    assert all(run.done == 3000 for run in runs)
    assert sum(ideal_s / run.elapsed_s >= used for run in runs) >= sound


@given(
    st.lists(
        st.tuples(st.sampled_from(["acquire", "answer", "reject", "probe", "end"]), FLOATS, FLOATS, st.none() | FLOATS)
    )
)
def test_no_order_of_events_and_no_number_breaks_it(events: list[tuple[str, float, float, float | None]]) -> None:
    gate = PushBack("gate")
    for kind, sent_s, now, wait_s in events:
        match kind:
            case "acquire":
                gate.acquire(1, now)
            case "answer":
                gate.on_answer(sent_s)
            case "reject":
                gate.on_rejected(sent_s, wait_s, now)
            case "probe":
                gate.probe_now(now)
            case _:
                gate.end_hold()
        assert not math.isnan(gate.ready_at(1, now))
        assert 0 < gate.share < 1
        assert gate.is_held or not gate.is_exhausted
