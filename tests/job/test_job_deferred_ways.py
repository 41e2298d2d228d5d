"""Deferred ways: which lines go by batch, in a flex tier or directly."""

from typing import Any

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.job.deferred_ways import DeferredWays, prices_of_ways
from llmblast.models import RawBody, Request, Terms
from llmblast.providers import providers_of
from llmblast.settings import Settings
from llmblast.watching import Counters

NOW_S = 1_000_000.0
OPENAI = "https://api.openai.com/v1"
LOCAL = "http://127.0.0.1/v1"
BY: dict[str, Any] = {"by": "08:00", "price_in": 1.0, "price_out": 4.0}


def make_settings(url: str = OPENAI, endpoint: dict[str, Any] | None = None, **run: Any) -> Settings:
    return Settings(endpoints=(EndpointSettings(url=url, name="one", **(endpoint or {})),), **run)


def make_ways(settings: Settings, counters: Counters | None = None) -> DeferredWays:
    providers = providers_of(settings.endpoints, settings.model)
    return DeferredWays(
        settings, providers, counters or Counters(), lines_per_s=lambda: 100.0, wall_clock=lambda: NOW_S
    )


def line(left_s: float = 12 * 3600.0, body: bytes = b"{}", path: str = "chat/completions") -> Request:
    terms = Terms(is_deferred=True, deadline_s=NOW_S + left_s)
    content = RawBody("openai.chat" if path == "chat/completions" else f"openai.{path}")
    return Request(1, "0" * 16, b"{}", 1, body=body, path=path, content=content, terms=terms)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(make_settings(**BY), {"direct": 1.0, "batch": 0.5, "flex": 0.5}, id="prices and a time"),
        pytest.param(make_settings(price_in=1.0), {"direct": 1.0}, id="no time"),
        pytest.param(make_settings(by="08:00"), {"direct": 1.0}, id="no prices"),
        pytest.param(make_settings(defer="flex", **BY), {"flex": 0.5}, id="a way is named"),
        pytest.param(make_settings(endpoint={"defer": "batch"}), {"batch": 0.5}, id="at the endpoint"),
        pytest.param(make_settings(LOCAL, **BY), {"direct": 1.0}, id="a server of one's own"),
        pytest.param(
            make_settings(LOCAL, flex_price=0.4, **BY), {"direct": 1.0, "flex": 0.4}, id="with a price for its tier"
        ),
        pytest.param(make_settings(batch_price=1.0, **BY), {"direct": 1.0, "flex": 0.5}, id="not cheaper"),
        pytest.param(make_settings(save="-", **BY), {"direct": 1.0, "flex": 0.5}, id="no file for a journal"),
        pytest.param(
            make_settings("https://api.anthropic.com", **BY), {"direct": 1.0, "batch": 0.5}, id="no flex tier"
        ),
    ],
)
def test_a_way_is_there_where_it_is_named_or_known_to_be_cheaper(
    settings: Settings, expected: dict[str, float]
) -> None:
    """Nothing is tried out on servers that may not know it."""
    [provider] = providers_of(settings.endpoints)

    assert prices_of_ways(settings, settings.endpoints[0], provider) == expected


def test_lines_go_the_cheapest_way_that_makes_their_deadline() -> None:
    """By batch where that may end in time, in the flex tier where there is time for that, else directly."""
    ways = make_ways(make_settings(**BY))
    chosen = [(ways.goes_by_batch(line(left_s)), ways.flex_for(line(left_s))) for left_s in (36_000, 1200, 100)]
    for _ in range(30):
        ways.learn(4000.0)

    assert chosen == [(True, 1), (True, 1), (False, 0)]
    assert not ways.goes_by_batch(line(1200.0))
    assert ways.flex_for(line(1200.0)) == 1


def test_the_lines_that_are_left_count() -> None:
    """A million lines at 100/s need three hours."""
    ways = make_ways(make_settings(**BY), Counters(lines_read=1_000_000))

    assert ways.goes_by_batch(line(6 * 3600.0))
    assert not ways.goes_by_batch(line(4 * 3600.0))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (line(), 1),
        (line(path="responses"), 1),
        (line(path="embeddings"), 0),
        (line(body=b'{"service_tier":"priority","messages":[]}'), 0),
    ],
)
def test_only_requests_that_know_the_tier_ask_for_it(request_: Request, expected: int) -> None:
    """And a line that names a tier keeps that."""
    assert make_ways(make_settings(defer="flex")).flex_for(request_) == expected


@pytest.mark.parametrize(
    "settings",
    [
        make_settings("https://api.anthropic.com", defer="flex"),
        make_settings("https://api.anthropic.com", endpoint={"defer": "flex"}),
    ],
)
def test_a_flex_tier_that_no_endpoint_has_is_a_mistake(settings: Settings) -> None:
    """It is said before anything is sent."""
    with pytest.raises(UsageError, match="flex"):
        make_ways(settings)


@pytest.mark.parametrize(
    ("run", "endpoint", "message"),
    [
        ({"defer": "batch"}, {}, "--defer batch: no endpoint has an API with batches"),
        ({}, {"defer": "batch"}, r"endpoint one: its API \(bedrock\) has no batches"),
    ],
)
def test_batches_that_no_endpoint_has_are_a_mistake(
    run: dict[str, Any], endpoint: dict[str, Any], message: str
) -> None:
    """Nothing is sent at the full price in the belief that it is half."""
    with pytest.raises(UsageError, match=message):
        make_ways(make_settings(LOCAL, {"kind": "bedrock", "model": "m", **endpoint}, **run))
