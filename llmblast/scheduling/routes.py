"""Routes: which of the endpoints that are ready gets the request. A route is one function and one line in the table.

It gets the endpoints that are ready, the request, and all enabled ones: those that are not ready have a share, too.
"""

from collections.abc import Callable, Sequence

from llmblast.models import Request
from llmblast.scheduling.endpoints import Endpoint

Route = Callable[[Sequence[Endpoint], Request, Sequence[Endpoint]], Endpoint]


def weighted(ready: Sequence[Endpoint], request: Request, enabled: Sequence[Endpoint]) -> Endpoint:
    """Choose by smooth weighted round robin, as in nginx (commit 52327e0627f4): exact shares without clumps.

    An endpoint that is not ready keeps its credit, else endpoints near their own rate limit would lose the turns for
    which they come a moment late. The credit is capped at one turn: no crowd meets an endpoint after a pause.
    """
    total = 0.0
    for endpoint in enabled:
        routing = endpoint.routing
        total += routing.weight
        routing.wrr_credit += routing.weight
    best = ready[0]
    for endpoint in ready:
        if endpoint.routing.wrr_credit > best.routing.wrr_credit:
            best = endpoint
    best.routing.wrr_credit -= total
    if len(ready) < len(enabled):
        for endpoint in enabled:
            endpoint.routing.wrr_credit = max(-total, min(endpoint.routing.wrr_credit, total))
    return best


def least_loaded(ready: Sequence[Endpoint], request: Request, enabled: Sequence[Endpoint]) -> Endpoint:
    """Choose the fewest in flight for its weight."""
    return min(ready, key=lambda endpoint: (endpoint.traffic.in_flight + 1) / endpoint.routing.weight)


def fastest(ready: Sequence[Endpoint], request: Request, enabled: Sequence[Endpoint]) -> Endpoint:
    """Choose the least expected wait: average latency times requests in flight (peak EWMA, as in Finagle and Linkerd).

    The load is part of it, since the fastest endpoint would otherwise get everything until it is the slowest. One that
    was never tried counts as instant.
    """
    return min(
        ready,
        key=lambda e: (e.routing.latency_s or 1e-6) * (e.traffic.in_flight + 1) / e.routing.weight,
    )


ROUTES: dict[str, Route] = {"weighted": weighted, "least-loaded": least_loaded, "fastest": fastest}
