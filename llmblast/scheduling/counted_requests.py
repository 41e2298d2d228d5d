"""Counted requests: tell servers that count requests from those that look at the time between two of them.

A reply whose headers say that several more requests may come shows that the server counts them, in a window or a
bucket; one that looks at the time between two has no room for several at any moment. After a rejection, the interval
is kept again, for the rest of the run.
"""

from collections.abc import Sequence

from llmblast.models import RateLimitInfo
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.limit_set import LimitSet

MIN_REMAINING = 2
"""A bucket without room for a burst has one left, when its last request has just left it."""


class CountedRequests:
    """Ends the fixed intervals of even rates where all servers behind them count requests."""

    def __init__(self, run_limits: LimitSet, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._run_rates = run_limits.even
        self._told: dict[Endpoint, float] = {}
        """How many requests each endpoint takes in its window or bucket; 0 after a rejection."""

    def on_rate_limit_headers(self, endpoint: Endpoint, infos: Sequence[RateLimitInfo]) -> None:
        """Learn from the headers of a reply."""
        if endpoint in self._told:
            return
        told = [
            info.limit
            for info in infos
            if info.kind == "requests" and info.limit is not None and (info.remaining or 0) >= MIN_REMAINING
        ]
        if told:
            self._told[endpoint] = min(told)
            self._apply()

    def on_rate_limited(self, endpoint: Endpoint) -> None:
        """Keep the interval from now on: the endpoint has rejected a request for its rate."""
        if self._told.get(endpoint) != 0:
            self._told[endpoint] = 0
            self._apply()

    def _apply(self) -> None:
        for endpoint in self._endpoints:
            _keep_intervals(endpoint.limits.even, self._told.get(endpoint, 0))
        _keep_intervals(self._run_rates, min(self._told.get(endpoint, 0) for endpoint in self._endpoints))


def _keep_intervals(rates: Sequence[EvenRate], counted: float) -> None:
    """Keep the interval of each rate, unless the server counts as many requests as the rate allows in a second."""
    for rate in rates:
        rate.keep_interval(counted < rate.per_second)
