"""How good the estimate of the time left is, in whole runs against a fake clock; only the network is played."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.job.time_left_simulation import START_S, Latency, Run, Waits


def between(least_s: float, most_s: float) -> Latency:
    return lambda random: random.uniform(least_s, most_s)


def always(seconds: float) -> Latency:
    return lambda random: seconds


def lognormal(random: Random) -> float:
    return random.lognormvariate(1.0, 0.6)


def one_pause(sends: int, pause_s: float) -> Callable[[], Waits]:
    """After so many sends, everything is rejected for so long, once; `retry-after` says how long still."""

    def make() -> Waits:
        until_s: list[float] = []

        def wait(sent: int, now: float) -> float | None:
            if sent >= sends and not until_s:
                until_s.append(now + pause_s)
            return until_s[0] - now if until_s and now < until_s[0] else None

        return wait

    return make


def fixed_window(quota: int, window_s: float) -> Waits:
    """So many in each window."""
    state = [0.0, 0.0]

    def wait(sent: int, now: float) -> float | None:
        window = (now - START_S) // window_s
        if window > state[0]:
            state[:] = window, 0.0
        state[1] += 1
        return None if state[1] <= quota else START_S + (window + 1) * window_s - now

    return wait


RUNS: dict[str, dict[str, Any]] = {
    "rps": {"lines": 1000, "rps": 20},
    "rps, slow answers": {"lines": 600, "rps": 2, "latency": between(20, 40)},
    "rps, fast": {"lines": 5000, "rps": 500},
    "rpm": {"lines": 200, "rpm": 30},
    "tpm": {"lines": 1000, "tpm": 60_000},
    "tpm, slow answers": {"lines": 1000, "tpm": 30_000, "latency": between(10, 20)},
    "itpm": {"lines": 500, "itpm": 60_000},
    "otpm": {"lines": 500, "otpm": 10_000},
    "tpm that charges max_tokens": {
        "lines": 500, "endpoints": [{"tpm": 60_000, "charge": "max_tokens"}], "max_tokens": 200,
    },
    "the endpoints' rps": {"lines": 1000, "endpoints": [{"rps": 10}, {"rps": 5}, {"rps": 2}]},
    "rpd": {"lines": 500, "rpd": 100},
    "the endpoints' rpd": {"lines": 500, "endpoints": [{"rpd": 100}, {"rpd": 50}], "rps": 5},
    "rps after a burst": {"lines": 1000, "rps": 10, "burst_s": 5.0},
    "rps, but the number in flight is less": {
        "lines": 1000, "rps": 20, "concurrency": 10, "latency": between(0.8, 1.2),
    },
    "waves of 5 s": {"lines": 640, "concurrency": 64, "latency": always(5)},
    "waves of 30 s": {"lines": 640, "concurrency": 64, "latency": always(30)},
    "latency of 1 to 30 s": {"lines": 1280, "concurrency": 64, "latency": between(1, 30)},
    "lognormal latency": {"lines": 2560, "concurrency": 64, "latency": lognormal},
    "one at a time": {"lines": 60, "concurrency": 1, "latency": between(8, 12)},
    "failures, rps": {"lines": 1000, "rps": 20, "failing": 0.2},
    "failures, number in flight": {"lines": 1280, "concurrency": 32, "latency": between(2, 4), "failing": 0.05},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_the_eta_is_right_long_before_the_end(name: str) -> None:
    """Within 25 % when a tenth is done, within 10 % at the half; never far off, from the first word to the last."""
    run = Run(**RUNS[name]).play()

    assert run.worst_error_at(0.1) <= 0.25
    assert run.worst_error_at(0.5) <= 0.10
    assert min(run.ratios()) > 1 / 6
    assert max(run.ratios()) < 6


@pytest.mark.parametrize("name", ["rps", "rps, slow answers", "rps, fast", "rpm", "the endpoints' rps", "rpd"])
def test_a_set_rate_tells_the_time_before_the_first_answer(name: str) -> None:
    """From the first look on, however slow the answers are."""
    run = Run(**RUNS[name]).play()
    _, at, eta_s, _ = run.etas[0]

    assert eta_s == pytest.approx(run.now - at, rel=0.12)


@pytest.mark.parametrize("name", ["waves of 30 s", "tpm, slow answers"])
def test_nothing_is_promised_before_anything_is_known(name: str) -> None:
    """Neither the latency nor the tokens of a line are known before the first answer."""
    run = Run(**RUNS[name]).play()

    assert {eta_s for done, _, eta_s, _ in run.etas if done == 0} == {None}


def test_a_long_pause_is_part_of_the_eta_and_not_of_the_speed() -> None:
    """`retry-after: 60`, once: the minute counts while it lasts, and slows nothing down afterwards."""
    run = Run(lines=1000, concurrency=8, pushes_back=one_pause(200, 60)()).play()
    paused = [(eta_s, run.now - at) for _, at, eta_s, _ in run.etas if START_S + 15 < at < START_S + 60]

    assert all(1 / 3 < (eta_s or 0.0) / left_s < 3 for eta_s, left_s in paused)
    assert run.worst_error_at(0.5) <= 0.10


def test_pauses_that_come_again_are_expected() -> None:
    """A provider's quota of 100 a minute: the first pause may be the only one, and from the second on it is known."""
    run = Run(lines=1000, concurrency=8, pushes_back=fixed_window(100, 60)).play()
    first = [(eta_s, run.now - at) for _, at, eta_s, _ in run.etas if START_S + 10 < at < START_S + 55]

    assert min((eta_s or 0.0) / left_s for eta_s, left_s in first) > 0.2
    assert run.worst_error_at(0.6) <= 0.10
    assert run.worst_error_at(0.8) <= 0.10


def test_a_quota_that_is_used_up_is_told_with_the_moment_when_it_is_free_again() -> None:
    """Else a run that waits for a day looks like one that hangs."""
    run = Run(**RUNS["rpd"]).play()
    _, at, _, held_back = run.etas[len(run.etas) // 10]

    assert held_back.startswith("--rpd is used up until 1970-01-0")
    assert ", for " in held_back
    assert at > 1000


@pytest.mark.parametrize(
    ("skipped", "finished_before", "lines", "left"),
    [(9_000, 0, 1000, 1000), (9_000, 400, 1000, 600), (100, 900, 1000, 100), (0, 5000, 1000, 1000)],
    ids=["the start is done", "more is to be skipped", "most is to be skipped", "the records are of another input"],
)
def test_lines_that_earlier_runs_finished_take_no_time(
    skipped: int, finished_before: int, lines: int, left: int
) -> None:
    """Neither those that were skipped nor those that will be."""
    run = Run(lines=lines, rps=20, skipped=skipped, finished_before=finished_before)
    run.counters.lines_read -= finished_before if skipped else 0
    run.counters.input_ended = False
    run.counters.bytes_read = run.counters.lines_read * 100
    run.counters.input_bytes = (lines + skipped) * 100

    run.play()

    _, _, eta_s, _ = run.etas[0]
    assert eta_s == pytest.approx(left / 20, rel=0.02)
