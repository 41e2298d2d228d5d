"""The choice of a way: the cheapest one that makes the deadline."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.job.ways import SAFETY, Outlook, Way, batch_wait_s, cheapest_way, makes_deadline

HOUR_S = 3600.0
ALL: dict[Way, float] = {"batch": 0.5, "flex": 0.5, "direct": 1.0}


@pytest.mark.parametrize(
    ("prices", "outlook", "expected"),
    [
        pytest.param(ALL, Outlook(inf, 10_000), "batch", id="no deadline"),
        pytest.param(ALL, Outlook(12 * HOUR_S, 10_000, 50.0), "batch", id="much time"),
        pytest.param({**ALL, "flex": 0.4}, Outlook(12 * HOUR_S, 10_000, 50.0), "flex", id="flex is cheaper"),
        pytest.param({**ALL, "batch": 1.0, "flex": 1.0}, Outlook(inf, 10), "batch", id="all the same"),
        pytest.param(ALL, Outlook(HOUR_S, 100, 50.0, [5 * HOUR_S, 4 * HOUR_S]), "flex", id="no batch is as fast"),
        pytest.param(ALL, Outlook(HOUR_S, 100, 50.0, [5 * HOUR_S, 1200.0]), "batch", id="some batch was"),
        pytest.param(ALL, Outlook(600.0, 10_000, 50.0), "direct", id="just enough time for direct sends"),
        pytest.param(ALL, Outlook(10.0, 10_000, 50.0), "direct", id="too late for all"),
        pytest.param({"direct": 1.0}, Outlook(inf, 10), "direct", id="nothing else is there"),
        pytest.param({"flex": 1.0, "direct": 1.0}, Outlook(inf, 10), "flex", id="flex at the same price"),
        pytest.param({"batch": 2.0, "direct": 1.0}, Outlook(inf, 10), "direct", id="batches are dearer"),
        pytest.param({}, Outlook(inf, 10), "direct", id="no price is known"),
    ],
)
def test_the_cheapest_way_that_makes_the_deadline_is_chosen(
    prices: dict[Way, float], outlook: Outlook, expected: str
) -> None:
    """At the same price a batch, which leaves the limits to other lines."""
    assert cheapest_way(prices, outlook) == expected


def test_a_batch_is_tried_as_long_as_the_rest_can_be_sent_after_its_cancellation() -> None:
    """1,000 lines at 10/s take 100 s, 150 s with the margin; a cancellation takes a tenth of the time."""
    assert batch_wait_s(1000.0, 1000, 10.0) == pytest.approx(1000 - 100 - SAFETY * 100)
    assert batch_wait_s(100_000.0, 1000, 10.0) == pytest.approx(100_000 - 600 - SAFETY * 100)


@given(
    prices=st.dictionaries(st.sampled_from(["batch", "flex", "direct"]), st.floats(0, 10), min_size=1),
    left_s=st.floats(-100, 1e6),
    lines=st.integers(0, 10**6),
    rate=st.none() | st.floats(0.1, 1e4),
    batches_s=st.lists(st.floats(1, 1e5), max_size=3),
)
def test_no_cheaper_way_would_have_made_it(
    prices: dict[Way, float], left_s: float, lines: int, rate: float | None, batches_s: list[float]
) -> None:
    """And with more time, the way is never dearer."""
    prices = {"direct": 1.0, **prices}
    outlook, later = Outlook(left_s, lines, rate, batches_s), Outlook(left_s + 1000, lines, rate, batches_s)
    chosen = cheapest_way(prices, outlook)

    assert all(price >= prices[chosen] for way, price in prices.items() if makes_deadline(way, outlook))
    assert prices[cheapest_way(prices, later)] <= prices[chosen]
