"""Affinity: lines that share a prefix go to the same endpoint, as long as that leaves the others their share.

The endpoint of a prefix is found by weighted rendezvous hashing (Thaler and Ravishankar, 1998), so it stays the same in
another run. One that has more in flight than its weight allows, and a tenth, gets no more for now, as in consistent
hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018): where all lines share one prefix, all endpoints
get them. There, too, one line goes ahead, and until its reply is there the others stay where the prefix is warm.
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
MAX_SCOUT_S: Final = 15.0
"""Wait for the reply to the line that went ahead to another endpoint."""
_SLACK: Final = 1.0


def choose_for(
    prefix: Prefix, request: Request, ready: Sequence[Endpoint], enabled: Sequence[Endpoint], route: Route
) -> Endpoint:
    """Return the endpoint for a line with a prefix, one of those that are ready. Where it should wait for one that has
    the prefix, see `should_wait`, it is one that has not.
    """
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
    return route(_warmest(group, free, ready), request, enabled)


def _warmest(group: Prefix, free: Sequence[Endpoint], ready: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Return the endpoints to choose from where that of a group has no room: those with some, or all that are ready.

    One line goes ahead to each other endpoint. Until its reply is there, the group stays where it is warm.
    """
    warm_at, asked = group.warm_at, group.sent_to
    return (
        [e for e in free if warm_at & e.bit]
        or [e for e in free if not asked & e.bit]
        or [e for e in ready if warm_at & e.bit]
        or free
        or ready
    )


def should_wait(prefix: Prefix, chosen: Endpoint, enabled: Sequence[Endpoint], now: float) -> bool:
    """Return whether a line should wait: the endpoint that was chosen for it has not read the prefix yet, but will
    soon: another line is ahead. Some other endpoint has read it, and is busy.
    """
    group = prefix if prefix.parent is None else prefix.parent
    if not group.is_shared or group.warm_at & chosen.bit or not group.sent_to & chosen.bit:
        return False
    return now < group.asked_s + MAX_SCOUT_S and any(group.warm_at & endpoint.bit for endpoint in enabled)


def record_send(prefix: Prefix, endpoint: Endpoint, now: float) -> None:
    """Remember where a line with a prefix went."""
    while True:
        if not prefix.sent_to & endpoint.bit:
            prefix.sent_to |= endpoint.bit
            prefix.asked_s = now
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
