"""Affinity: lines that share a prefix go to the same endpoint, as long as that leaves the others their share.

The endpoint of a prefix is found by weighted rendezvous hashing (Thaler and Ravishankar, 1998), so it stays the same in
another run. One that has more in flight than its weight allows, and a tenth, gets no more for now, as in consistent
hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018): where all lines share one prefix, all endpoints
get them. There, too, one line goes ahead.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from llmblast.models import Prefix, Request
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.routes import Route

MAX_LOAD: Final = 1.1
"""Most requests in flight at one endpoint, as a multiple of its share of all."""
_SLACK: Final = 1.0


def choose_for(
    prefix: Prefix, request: Request, ready: Sequence[Endpoint], enabled: Sequence[Endpoint], route: Route
) -> Endpoint:
    """Return the endpoint for a line with a prefix, one of those that are ready."""
    group = prefix if prefix.parent is None else prefix.parent
    if not group.is_shared:
        return route(ready, request, enabled)
    if not any(endpoint.index == group.home for endpoint in enabled):
        group.home = max(enabled, key=lambda endpoint: _score(group.key, endpoint)).index
    total_weight = in_flight = 0.0
    for endpoint in enabled:
        total_weight += endpoint.routing.weight
        in_flight += endpoint.traffic.in_flight
    load_per_weight = MAX_LOAD * (in_flight + 1.0) / max(total_weight, 1e-9)
    free: list[Endpoint] = []
    for endpoint in ready:
        if endpoint.traffic.in_flight < load_per_weight * endpoint.routing.weight + _SLACK:
            if endpoint.index == group.home:
                return endpoint
            free.append(endpoint)
    asked = group.sent_to & ~group.warm_at
    return route([e for e in free if not asked & e.bit] or free or ready, request, enabled)


def record_send(prefix: Prefix, endpoint: Endpoint) -> None:
    """Remember where a line with a prefix went."""
    while True:
        prefix.sent_to |= endpoint.bit
        if prefix.home < 0:
            prefix.home = endpoint.index
        if prefix.parent is None:
            return
        prefix = prefix.parent


def _score(key: int, endpoint: Endpoint) -> float:
    """Return the score of an endpoint; it is the highest one for a share of the keys in proportion to its weight."""
    digest = blake2b(b"%d %b" % (key, endpoint.name.encode()), digest_size=7).digest()
    share = (int.from_bytes(digest, "big") + 0.5) / 2**56
    return -endpoint.routing.weight / math.log(share)
