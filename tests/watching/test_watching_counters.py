"""Counters: quantiles out of a fixed number of buckets, and a table of errors that cannot grow without end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.watching.counters import MAX_ERROR_KINDS, Counters, Histogram
from tests.watching.watching_helpers import endpoint

LATENCIES = st.lists(st.floats(1e-4, 1600.0), min_size=1, max_size=300)


@given(LATENCIES, st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_five_percent_of_the_sorted_truth(latencies: list[float], share: float) -> None:
    """Buckets stand for their members closely enough to be told to a person."""
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)

    truth = sorted(latencies)[math.ceil(share * len(latencies)) - 1]

    assert histogram.quantile(share) == pytest.approx(truth, rel=0.05)
    assert histogram.total_s == pytest.approx(sum(latencies))


def test_there_is_no_quantile_before_the_first_latency() -> None:
    """None rather than a made-up zero."""
    assert Histogram().quantile(0.5) is None


@pytest.mark.parametrize("latency", [0.0, 1e-9, 1e9])
def test_a_latency_outside_the_range_is_counted_at_its_end(latency: float) -> None:
    """Neither an index error nor a lost sample."""
    histogram = Histogram()

    histogram.add(latency)

    quantile = histogram.quantile(0.5)
    assert histogram.count == 1
    assert quantile is not None
    assert 9e-5 < quantile < 1700


def test_an_error_keeps_the_line_and_message_of_its_first_case() -> None:
    """The person looks at one line first; it should not change all the time."""
    counters = Counters()

    counters.count_error("bad_request", 17, "first")
    counters.count_error("bad_request", 99, "second")

    kind = counters.error_kinds["bad_request"]
    assert (kind.count, kind.first_line, kind.message) == (2, 17, "first")


def test_kinds_of_errors_beyond_the_cap_share_one_entry() -> None:
    """Codes come from outside: a server that invents one for each reply must not fill the memory."""
    counters = Counters()

    for line in range(1, 1001):
        counters.count_error(f"code-{line}", line, "message")

    assert len(counters.error_kinds) == MAX_ERROR_KINDS + 1
    assert counters.error_kinds["other"].count == 1000 - MAX_ERROR_KINDS


def test_done_counts_every_line_that_has_its_record() -> None:
    """Records of an earlier run are records too."""
    counters = Counters(skipped=5, succeeded=3, failed=2, endpoints=[endpoint("a", tokens=(7, 8))])

    assert counters.done == 10
    assert counters.tokens == 15


def test_pending_lines_are_read_and_have_no_record() -> None:
    """Records of this run and of an earlier one count alike."""
    assert Counters(lines_read=9, skipped=5, succeeded=1, failed=1).pending == 2


@pytest.mark.parametrize(("latency_s", "share"), [(0.0, 1.0), (0.5, 1.0), (1.5, 0.75), (3.0, 0.25), (5000.0, 0.0)])
def test_the_share_of_longer_latencies(latency_s: float, share: float) -> None:
    """To a bucket's width."""
    histogram = Histogram()
    for seconds in (1.0, 2.0, 2.0, 4.0):
        histogram.add(seconds)

    assert histogram.share_above(latency_s) == share
    assert Histogram().share_above(latency_s) == 0
