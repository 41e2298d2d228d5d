"""Costs: what tokens cost at the prices of the settings, and what was saved."""

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.settings import Settings
from llmblast.watching import BATCH, FLEX, money, prices_of
from llmblast.watching.costs import Used
from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.summary import Summary
from llmblast.watching.time_left import Allowance

URL = "http://127.0.0.1/v1"
RUN = Settings(price_in=2.0, price_out=8.0, price_cached=0.5)


def used(prompt: int, cached: int, completion: int, **by_way: tuple[int, int, int]) -> Used:
    made = Used()
    made.all.add(prompt, cached, completion)
    for way, counts in by_way.items():
        made.all.add(*counts)
        made.add_by_way(way, *counts)
    return made


def test_cached_tokens_cost_less_and_say_what_they_saved() -> None:
    """A million at each price."""
    prices = prices_of(EndpointSettings(url=URL), RUN)
    assert prices is not None

    cost = prices.cost_of(used(2_000_000, 1_000_000, 1_000_000))

    assert cost.total == pytest.approx(2.0 + 0.5 + 8.0)
    assert cost.saved_by_cache == pytest.approx(1.5)
    assert cost.saved_by_way == {}


def test_batches_and_the_flex_tier_cost_half_unless_told() -> None:
    """What they save is told apart from what the cache saved."""
    endpoint = EndpointSettings(url=URL, flex_price=0.75)
    prices = prices_of(endpoint, RUN)
    assert prices is not None

    cost = prices.cost_of(used(0, 0, 0, batch=(2_000_000, 1_000_000, 0), flex=(0, 0, 1_000_000)))

    assert cost.total == pytest.approx(0.5 * 2.5 + 0.75 * 8.0)
    assert cost.saved_by_way == pytest.approx({BATCH: 1.25, FLEX: 2.0})
    assert cost.saved_by_cache == pytest.approx(0.5 * 1.5)


def test_what_is_added_to_the_cache_costs_more_and_takes_from_what_the_cache_saved() -> None:
    """Also in a batch, at its price: where nothing is read again, the cache has cost money."""
    prices = prices_of(EndpointSettings(url=URL), RUN)
    assert prices is not None
    written = Used()
    written.all.add(4_000_000, 1_000_000, 0, write_surcharge=500_000)
    batched = Used()
    batched.all.add(2_000_000, 0, 0, write_surcharge=500_000)
    batched.add_by_way(BATCH, 2_000_000, 0, 0, write_surcharge=500_000)

    direct, by_batch = prices.cost_of(written), prices.cost_of(batched)

    assert (direct.total, direct.saved_by_cache) == pytest.approx((3 * 2.0 + 0.5 + 1.0, 1.5 - 1.0))
    assert (by_batch.total, by_batch.saved_by_cache) == pytest.approx((0.5 * 5.0, -0.5))
    assert by_batch.saved_by_way == pytest.approx({BATCH: 2.5})


@pytest.mark.parametrize(
    ("endpoint", "run", "expected"),
    [
        (EndpointSettings(url=URL, price_in=1.0), RUN, (1.0, 0.5, 8.0)),
        (EndpointSettings(url=URL, price_in=1.0, price_out=0.0, price_cached=0.1), Settings(), (1.0, 0.1, 0.0)),
        (EndpointSettings(url=URL, price_in=1.0), Settings(), (1.0, 1.0, 0.0)),
        (EndpointSettings(url=URL), Settings(), None),
        (EndpointSettings(url=URL), Settings(price_cached=1.0), None),
    ],
)
def test_an_endpoints_own_prices_come_before_those_of_the_run(
    endpoint: EndpointSettings, run: Settings, expected: tuple[float, float, float] | None
) -> None:
    """Without any, costs are not known."""
    prices = prices_of(endpoint, run)

    assert (prices and (prices.prompt, prices.cached, prices.completion)) == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0.0, "$0"),
        (0.0000121, "$0.000012"),
        (0.0042, "$0.0042"),
        (0.05, "$0.05"),
        (0.42, "$0.42"),
        (1.234, "$1.23"),
        (999.994, "$999.99"),
        (1234.5, "$1,234"),
        (12345678, "$12,345,678"),
    ],
)
def test_amounts_have_two_digits_or_more(amount: float, expected: str) -> None:
    """As people write them."""
    assert money(amount) == expected


def summary_of(counters: Counters) -> Summary:
    limits = LimitsView(None, None, dict, dict, Allowance)
    return Summary(counters, 10.0, limits, "finished")


def test_the_summary_says_what_the_run_cost_and_saved() -> None:
    """And which endpoints that leaves out."""
    one, two = EndpointCounters("one", prices=prices_of(EndpointSettings(url=URL), RUN)), EndpointCounters("two")
    one.used = used(1_000_000, 500_000, 100_000, batch=(1_000_000, 0, 100_000))
    two.used = used(0, 0, 5)
    counters = Counters(endpoints=[one, two], cached_tokens=500_000)

    text = summary_of(counters).as_text(100)
    told = summary_of(counters).as_json()

    assert "500,000 of them cached (25 %)" in text
    assert "cost      $3.45, $1.40 saved by batches, $0.75 saved by cached tokens," in text
    assert "without 1 endpoint that has no price" in " ".join(text.split())
    assert told["cost"] == {"total": 3.45, "saved": {"batch": 1.4, "cache": 0.75}}


def test_without_prices_the_summary_says_nothing_of_costs() -> None:
    """Nor does its JSON."""
    counters = Counters(endpoints=[EndpointCounters("one", used=used(5, 0, 5))])

    assert "cost" not in summary_of(counters).as_text()
    assert summary_of(counters).as_json()["cost"] is None
