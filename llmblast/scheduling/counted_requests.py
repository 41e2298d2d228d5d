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
from llmblast.scheduling.traffic import NOT_COUNTED

MIN_REMAINING = 2
"""A bucket without room for a burst has one left, when its last request has just left it."""


def learn_count(endpoint: Endpoint, infos: Sequence[RateLimitInfo]) -> bool:
    """Learn from the headers of a reply how many requests the endpoint counts. Return whether that was unknown."""
    if endpoint.traffic.counted != 0:
        return False
    told = [
        info.limit
        for info in infos
        if info.kind == "requests" and info.limit is not None and (info.remaining or 0) >= MIN_REMAINING
    ]
    endpoint.traffic.counted = min(told, default=0)
    return bool(told)


def forget_count(endpoint: Endpoint) -> bool:
    """Forget that the endpoint counts, for good: it has rejected a request. Return whether that was not known yet."""
    was_known, endpoint.traffic.counted = endpoint.traffic.counted == NOT_COUNTED, NOT_COUNTED
    return not was_known


def keep_intervals(run_limits: LimitSet, endpoints: Sequence[Endpoint]) -> None:
    """Keep the interval of each even rate, unless all servers behind it count, and as many as it allows in a second."""
    for endpoint in endpoints:
        _keep_intervals(endpoint.limits.even, endpoint.traffic.counted)
    _keep_intervals(run_limits.even, min(endpoint.traffic.counted for endpoint in endpoints))


def _keep_intervals(rates: Sequence[EvenRate], counted: float) -> None:
    for rate in rates:
        rate.keep_interval(counted < rate.per_second)
