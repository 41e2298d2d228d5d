"""The canary: when too many of the last answers are bad."""

from collections.abc import Sequence
from random import Random

import pytest

from llmblast.errors import ExitCode
from llmblast.job.canary import WINDOW, Canary, Quality
from llmblast.job.decisions import Stop


def answers_until_stop(canary: Canary, qualities: Sequence[Quality]) -> tuple[int, str]:
    """How many answers were seen when the run stopped, and the reason; 0 where it did not stop."""
    for number, quality in enumerate(qualities, 1):
        for decision in canary.add(quality, number, "gpu1"):
            assert isinstance(decision, Stop)
            assert decision.exit_code is ExitCode.GAVE_UP
            return number, decision.reason
    return 0, ""


def test_a_run_of_bad_answers_ends_before_the_window_is_full() -> None:
    """As many as would be too many of 200."""
    seen, reason = answers_until_stop(Canary(0.2, "20%"), [Quality.EMPTY] * 1000)

    assert seen == 41
    assert reason == (
        "41 of the last 41 answers are bad (41 empty), more than --stop-if-bad 20% of 200; the first one is that to "
        "line 1: check the model, the prompt and max_tokens"
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.995])
def test_a_run_of_bad_answers_ends_within_the_window(share: float) -> None:
    """Whatever the share is."""
    seen, _ = answers_until_stop(Canary(share, "x"), [Quality.INVALID] * 1000)

    assert 1 <= seen <= WINDOW


def test_a_share_below_the_maximum_ends_nothing() -> None:
    """Spread evenly, and bunched at the start."""
    even = [Quality.GOOD if number % 5 else Quality.CUT_OFF for number in range(2000)]
    bunched = [Quality.REFUSED] * 40 + [Quality.GOOD] * 1000

    assert answers_until_stop(Canary(0.2, "20%"), even) == (0, "")
    assert answers_until_stop(Canary(0.2, "20%"), bunched) == (0, "")


def test_answers_that_turn_bad_in_mid_run_end_it() -> None:
    """A window forgets the good ones before."""
    seen, reason = answers_until_stop(Canary(0.2, "20%"), [Quality.GOOD] * 5000 + [Quality.REFUSED] * 1000)

    assert seen == 5041
    assert "41 of the last 200 answers are bad (41 refused)" in reason
    assert "line 5001" in reason


def test_all_kinds_are_counted_and_named() -> None:
    """In one sentence."""
    kinds = [kind for kind in Quality if kind is not Quality.GOOD]

    _, reason = answers_until_stop(Canary(0.1, "10%"), kinds * 100)

    assert "(6 empty, 5 invalid, 5 refused, 5 cut off)" in reason


@pytest.mark.parametrize("seed", range(5))
def test_the_count_is_that_of_the_last_answers(seed: int) -> None:
    """Compared with counting them each time."""
    random, seen = Random(seed), list[Quality]()
    canary = Canary(0.3, "30%")
    while True:
        seen.append(Quality.EMPTY if random.random() < 0.27 else Quality.GOOD)
        is_over = sum(quality is not Quality.GOOD for quality in seen[-WINDOW:]) > 0.3 * WINDOW
        assert bool(canary.add(seen[-1], 1, "gpu1")) == is_over
        if is_over or len(seen) == 20_000:
            return


def test_an_outage_of_bad_answers_ends_the_run() -> None:
    """Only single requests are sent then: the window would take hours to fill."""
    canary = Canary(0.2, "20%")
    answers_until_stop(canary, [Quality.GOOD] * 100 + [Quality.EMPTY] * 9)
    assert not canary.on_outage()

    canary.add(Quality.EMPTY, 110, "gpu1")

    (stop,) = canary.on_outage()
    assert isinstance(stop, Stop)
    assert stop.reason.startswith("10 of the last 110 answers are bad (10 empty), the last 10 in a row, from all endp")


def test_the_reason_names_the_endpoint_whose_answers_are_bad() -> None:
    """Where there are several, one may be to blame."""
    canary = Canary(0.2, "20%")
    endpoints = [("large", Quality.GOOD), ("small", Quality.EMPTY)] * 41

    (stop,) = [stop for n, (name, quality) in enumerate(endpoints) for stop in canary.add(quality, n, name)]

    assert isinstance(stop, Stop)
    assert "41 of the last 82 answers are bad (41 empty), " in stop.reason
    assert "of 200; small: 41 of 41; large: 0 of 41; the first one is that to line 1: " in stop.reason
