"""Routes: which of the endpoints that are ready gets the request. A route is one function and one line in the table.

It is handed what is ready, the request, and all that are enabled, since those that are not ready now have a share too.
"""

from collections.abc import Callable, Sequence

from llmblast.records import Request
from llmblast.scheduling.endpoints import Endpoint

Route = Callable[[Sequence[Endpoint], Request, Sequence[Endpoint]], Endpoint]


def weighted(ready: Sequence[Endpoint], request: Request, enabled: Sequence[Endpoint]) -> Endpoint:
    """Smooth weighted round robin, as in nginx (commit 52327e0627f4): exact shares without clumps.

    One that is not ready keeps its claim, else endpoints near their own rate limit would lose the turns for which they
    come a moment late. The claim is capped at one turn: no crowd meets an endpoint after a pause.
    """
    total = 0.0
    for endpoint in enabled:
        total += endpoint.weight
        endpoint.credit += endpoint.weight
    best = ready[0]
    for endpoint in ready:
        if endpoint.credit > best.credit:
            best = endpoint
    best.credit -= total
    if len(ready) < len(enabled):
        for endpoint in enabled:
            endpoint.credit = max(-total, min(endpoint.credit, total))
    return best


def least_loaded(ready: Sequence[Endpoint], request: Request, enabled: Sequence[Endpoint]) -> Endpoint:
    """The fewest in flight for its weight."""
    return min(ready, key=lambda endpoint: (endpoint.in_flight + 1) / endpoint.weight)


def fastest(ready: Sequence[Endpoint], request: Request, enabled: Sequence[Endpoint]) -> Endpoint:
    """The least expected wait: average latency times what is in flight (peak EWMA, as in Finagle and Linkerd).

    The load is part of it, since the fastest endpoint would otherwise get everything until it is the slowest. One that
    was never tried counts as instant.
    """
    return min(ready, key=lambda endpoint: (endpoint.latency_s or 1e-6) * (endpoint.in_flight + 1) / endpoint.weight)


ROUTES: dict[str, Route] = {"weighted": weighted, "least-loaded": least_loaded, "fastest": fastest}
