"""How far limits were used: a share of each set rate, of what was really charged."""

import pytest

from llmblast.models import NO_TOKENS
from llmblast.scheduling import Kind, SendOutcome
from tests.scheduling.scheduling_samples import Driver, admit_all, make_attempt, make_scheduler, tokens_of


def test_the_share_of_a_request_rate_is_that_of_the_intervals_between_sends() -> None:
    """Eleven sends, a tenth of a second apart, are ten a second; and one of two endpoints had about half of them."""
    scheduler = make_scheduler([{"rps": 40, "weight": 1}, {"rpm": 600, "weight": 1}], 12, rps=20)
    sent = [endpoint.index for n in range(12) for _, endpoint in admit_all(scheduler, n / 10)]

    used = scheduler.used(12, 1.1)

    assert sorted(sent) == [0] * 6 + [1] * 6
    assert used == pytest.approx({"run rps": 0.5, "e0 rps": 5 / 40, "e1 rpm": 0.5})


def test_a_run_that_is_held_back_by_its_rate_uses_it_but_for_the_margin() -> None:
    """99.3 % of it is paced, and it begins 20 ms late."""
    scheduler = make_scheduler([{}], 500, rps=50)
    driver = Driver(scheduler, lambda endpoint: 0.1)
    driver.run()

    assert scheduler.used(500, driver.sends[-1][0] - driver.sends[0][0])["run rps"] == pytest.approx(0.991, abs=0.001)


def test_the_share_of_a_token_rate_is_of_what_was_charged_in_the_end() -> None:
    """Two requests, estimated at 310 tokens each; the answers took 90 and 30, the third send gave all of it back."""
    scheduler = make_scheduler([{"tpm": 60_000, "itpm": 12_000}], otpm=6000)
    for number in range(1, 4):
        scheduler.queue.add(make_attempt(number, body=b"x" * 1000, max_tokens=10))
    settled = (tokens_of(80, 10), tokens_of(20, 10), NO_TOKENS)
    moments = (0.0, 5.0, 10.0)
    for moment, tokens in zip(moments, settled, strict=True):
        admitted = scheduler.next(moment)
        assert admitted is not None
        scheduler.release(*admitted, tokens_real=tokens, now=moment + 0.5)

    used = scheduler.used(3, 10.0)

    in_span = (1 - 1 / 3) / 10
    assert used == pytest.approx(
        {"e0 tpm": 120 * in_span / 1000, "e0 itpm": 100 * in_span / 200, "run otpm": 20 * in_span / 100}
    )


def test_what_is_still_in_flight_counts_as_estimated() -> None:
    """The limit is charged with it already."""
    scheduler = make_scheduler([{"tpm": 60_000}])
    for number in (1, 2):
        scheduler.queue.add(make_attempt(number, body=b"x" * 1000, max_tokens=100))
    admit_all(scheduler, 0.0)
    admit_all(scheduler, 1.0)

    assert scheduler.used(2, 1.0)["e0 tpm"] == pytest.approx(800 / 2 / 1000)


@pytest.mark.parametrize(("sent", "span_s"), [(0, 0.0), (1, 0.0), (1, 5.0), (2, 0.0)])
def test_without_two_sends_there_is_no_share(sent: int, span_s: float) -> None:
    """One moment is no stretch of time."""
    assert make_scheduler([{"rps": 10}], rps=10).used(sent, span_s) == {}


def test_a_limit_without_a_rate_has_no_share() -> None:
    """Neither slots, nor a day's quota, nor pauses, nor what was learned: nobody knows the whole of it."""
    scheduler = make_scheduler([{"concurrency": 5, "rpd": 1000, "adaptive": True}], 2, rps=10, concurrency=9)
    ((first, endpoint),) = admit_all(scheduler, 0.0)
    scheduler.on_outcome(first, endpoint, SendOutcome(Kind.RATE_LIMITED, wait_s=0.5), 0.1)
    scheduler.release(first, endpoint, NO_TOKENS, 0.1)
    assert scheduler.next(1.0) is not None

    assert "e0 learned rate" in scheduler.waited(2.0)
    assert scheduler.used(2, 1.0) == pytest.approx({"run rps": 0.1})
