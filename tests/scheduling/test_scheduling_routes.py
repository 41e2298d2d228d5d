"""Routes: exact shares without clumps, by load, by latency."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.scheduling import ROUTES, Endpoint
from tests.scheduling.scheduling_samples import answer, make_attempt, make_endpoint, make_request, make_scheduler


def picks(endpoints: Sequence[Endpoint], times: int, ready: Sequence[Endpoint] | None = None) -> list[int]:
    """Indices that the weighted route chooses."""
    route, request = ROUTES["weighted"], make_request()
    return [route(ready or endpoints, request, endpoints).index for _ in range(times)]


def test_weights_three_to_one_are_exact_and_without_clumps() -> None:
    """750:250 over 1,000 requests, and 3:1 in any four that follow one another."""
    chosen = picks([make_endpoint(0, weight=3), make_endpoint(1, weight=1)], 1000)

    assert Counter(chosen) == {0: 750, 1: 250}
    assert all(sum(chosen[start : start + 4]) == 1 for start in range(997))


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_any_integer_weights_are_exact_over_every_cycle(weights: list[int]) -> None:
    """Nothing drifts from one cycle to the next."""
    endpoints = [make_endpoint(index, weight=weight) for index, weight in enumerate(weights)]

    for _ in range(3):
        assert Counter(picks(endpoints, sum(weights))) == dict(enumerate(weights))


def test_equal_weights_take_turns() -> None:
    """Plain round robin is the same with equal weights."""
    assert picks([make_endpoint(index) for index in range(3)], 7) == [0, 1, 2, 0, 1, 2, 0]


def test_fractions_as_weights_keep_their_shares() -> None:
    """0.3 to 0.1 is three to one, although neither is exact in binary."""
    chosen = picks([make_endpoint(0, weight=0.3), make_endpoint(1, weight=0.1)], 4000)

    assert abs(Counter(chosen)[0] - 3000) <= 1


def test_a_turn_that_came_a_moment_too_early_is_made_up_for() -> None:
    """The endpoint was not ready when it was its turn, and goes first as soon as it is."""
    endpoints = [make_endpoint(0, weight=3), make_endpoint(1, weight=1)]

    assert picks(endpoints, 2) == [0, 0]
    assert picks(endpoints, 1, ready=endpoints[:1]) == [0]
    assert picks(endpoints, 1) == [1]


@pytest.mark.parametrize("weights", [(3, 1), (1, 1), (50, 50), (1, 9)])
def test_no_crowd_meets_an_endpoint_after_a_long_pause(weights: tuple[int, int]) -> None:
    """One turn is made up for, a thousand are not, and the shares are right at once."""
    endpoints = [make_endpoint(index, weight=weight) for index, weight in enumerate(weights)]
    picks(endpoints, 1000, ready=endpoints[:1])
    cycle = sum(weights)
    chosen = picks(endpoints, 10 * cycle)

    assert Counter(chosen)[1] - 10 * weights[1] in (0, 1, 2)
    assert Counter(chosen[-cycle:])[1] == weights[1]


def test_a_paused_endpoint_leaves_the_shares_of_the_others_alone() -> None:
    """Two of three are ready for a long time: theirs stay two to one."""
    endpoints = [make_endpoint(0, weight=2), make_endpoint(1, weight=1), make_endpoint(2, weight=5)]
    picks(endpoints, 8)
    chosen = picks(endpoints, 300, ready=endpoints[:2])

    assert abs(Counter(chosen)[1] - 100) <= 2


def test_the_least_loaded_endpoint_is_the_one_with_the_fewest_in_flight_for_its_weight() -> None:
    """Nine in flight at weight 3 are less than four at weight 1."""
    endpoints = [make_endpoint(0, weight=1), make_endpoint(1, weight=3)]
    endpoints[0].traffic.in_flight, endpoints[1].traffic.in_flight = 4, 9

    assert ROUTES["least-loaded"](endpoints, make_request(), endpoints).index == 1


def test_least_loaded_fills_endpoints_by_their_weights() -> None:
    """Forty requests that nobody answers stand 30:10."""
    scheduler = make_scheduler([{"weight": 3}, {"weight": 1}], requests=40, route="least-loaded")
    for _ in range(40):
        scheduler.next(0.0)

    assert [endpoint.traffic.in_flight for endpoint in scheduler.endpoints] == [30, 10]


def test_the_fastest_route_goes_by_latency() -> None:
    """The one that answers sooner, at the same load."""
    endpoints = [make_endpoint(0), make_endpoint(1)]
    answer(endpoints[0], 0.0, 0.9)
    answer(endpoints[1], 0.0, 0.3)

    assert ROUTES["fastest"](endpoints, make_request(), endpoints).index == 1


def test_the_fastest_route_does_not_flood_the_fastest_endpoint() -> None:
    """Three times as fast, so with three times as many in flight the next one goes to the other."""
    endpoints = [make_endpoint(0), make_endpoint(1)]
    answer(endpoints[0], 0.0, 0.9)
    answer(endpoints[1], 0.0, 0.3)
    endpoints[1].traffic.in_flight = 3

    assert ROUTES["fastest"](endpoints, make_request(), endpoints).index == 0


def test_the_fastest_route_tries_what_it_does_not_know() -> None:
    """An endpoint that never answered counts as instant."""
    endpoints = [make_endpoint(0), make_endpoint(1)]
    answer(endpoints[0], 0.0, 0.001)

    assert ROUTES["fastest"](endpoints, make_request(), endpoints).index == 1


def test_the_average_latency_follows_what_is_observed() -> None:
    """The first figure counts fully, later ones by a tenth."""
    endpoint = make_endpoint()
    answer(endpoint, 0.0, 1.0)
    answer(endpoint, 0.0, 2.0)

    assert endpoint.routing.latency_s == pytest.approx(1.1)


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_a_retry_prefers_an_endpoint_that_has_not_failed_it(route: str) -> None:
    """Even against the weights; when all have failed it, any will do."""
    scheduler = make_scheduler([{"weight": 1000}, {"weight": 1}], route=route)
    first, second = scheduler.endpoints
    scheduler.queue.add(make_attempt(1, failed_on=first.bit))
    scheduler.queue.add(make_attempt(2, failed_on=first.bit | second.bit))
    preferred, any_will_do = scheduler.next(0.0), scheduler.next(0.0)

    assert preferred is not None
    assert preferred[1] is second
    assert any_will_do is not None
    assert any_will_do[1] is first
