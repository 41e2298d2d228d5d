"""Fair sharing among the tenants of one class and priority: start-time fair queueing.

Each tenant has a virtual start tag. The smallest one is served next; then it grows by the cost of the send over the
tenant's weight. A tenant that was idle starts at the tag that was served last, so it saves up no credit, and what it
leaves goes to the others by their weights. Two tenants that both wait never get further apart than one send of each.
Source: Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996.
"""

import heapq
from collections import deque
from collections.abc import Mapping
from typing import Final

from llmblast.models import Attempt
from llmblast.scheduling.tenant_lines import TenantLines

MIN_KNOWN: Final = 1024
"""So many tenants are known before idle ones are looked for."""


class FairSharing:
    """Tenants without a weight have 1; lines without a tenant are those of the tenant "". An idle tenant is forgotten
    as soon as the others have caught up with it, or where there are too many.
    """

    __slots__ = ("_heap", "_max_known", "_plain", "_pushes", "_tenants", "_virtual", "_weights")

    def __init__(self, weights: Mapping[str, float], plain: deque[Attempt] | None = None) -> None:
        self._weights = weights
        self._plain = plain
        """Where given: the lines of the tenant "" without a deadline, which the caller adds to, too."""
        self._tenants: dict[str, TenantLines] = {}
        self._heap: list[tuple[float, int, TenantLines]] = []
        """A tag in it may be too small, never too large: it is renewed when it comes to the top."""
        self._pushes = 0
        self._virtual = 0.0
        """Start tag of the last send."""
        self._max_known = MIN_KNOWN

    @property
    def is_plain(self) -> bool:
        """Return whether nothing is left but lines without tenant and deadline, and no tenant is to be remembered."""
        if len(self._tenants) > 1:
            return False
        return all(not tenant.name and not tenant.has_deadlines for tenant in self._tenants.values())

    def add(self, attempt: Attempt, order: int, grace_s: float = 0.0) -> None:
        """Add a line; see `TenantLines.add`."""
        tenant = self._wake(attempt.request.terms.tenant)
        tenant.add(attempt, order, grace_s)

    def wake_plain(self) -> None:
        """Let the tenant "" take part: its deque has lines."""
        self._wake("")

    def waiting_of(self, name: str) -> int:
        """Return how many lines of a tenant wait."""
        tenant = self._tenants.get(name)
        return 0 if tenant is None else len(tenant)

    def late_of(self, name: str, answered_s: float) -> int:
        """Return how many lines of a tenant can no longer make their deadline."""
        tenant = self._tenants.get(name)
        return 0 if tenant is None else tenant.put_late_aside(answered_s)

    def take_last(self, name: str, count: int) -> list[Attempt]:
        """Remove and return so many lines of a tenant, those that would go last."""
        tenant = self._tenants.get(name)
        return [] if tenant is None else tenant.take_last(count)

    def tenants(self) -> list[TenantLines]:
        """Return all tenants that are known at present."""
        return list(self._tenants.values())

    def next_tenant(self) -> TenantLines | None:
        """Return the tenant whose turn it is; None where no line waits."""
        heap = self._heap
        while heap:
            tag, _, tenant = heap[0]
            if tag < tenant.start:
                self._pushes += 1
                heapq.heapreplace(heap, (tenant.start, self._pushes, tenant))
            elif tenant:
                return tenant
            else:
                heapq.heappop(heap)
                del self._tenants[tenant.name]
                self._virtual = max(self._virtual, tag)
        return None

    def charge_turn(self, tenant: TenantLines, cost: float) -> None:
        """Charge a send to the tenant whose turn it was."""
        self._virtual = tenant.start
        tenant.start += cost / tenant.weight

    def charge(self, name: str, cost: float) -> None:
        """Charge a send beside the turns, such as a retry."""
        tenant = self._wake(name)
        tenant.start += cost / tenant.weight

    def _wake(self, name: str) -> TenantLines:
        """Return a tenant that takes part; one that was idle starts at the tag that was served last."""
        tenant = self._tenants.get(name)
        if tenant is None:
            plain = self._plain if not name else None
            tenant = self._tenants[name] = TenantLines(name, self._weights.get(name, 1.0), plain)
            tenant.start = self._virtual
            self._pushes += 1
            heapq.heappush(self._heap, (tenant.start, self._pushes, tenant))
            if len(self._tenants) > self._max_known:
                self._forget_idle(tenant)
        elif not tenant and tenant.start < self._virtual:
            tenant.start = self._virtual
        return tenant

    def _forget_idle(self, newest: TenantLines) -> None:
        """Forget all tenants without lines: of very many that sent once, none is ahead of the others."""
        self._heap = [entry for entry in self._heap if entry[2] or entry[2] is newest]
        heapq.heapify(self._heap)
        self._tenants = {tenant.name: tenant for _, _, tenant in self._heap}
        self._max_known = max(2 * len(self._tenants), MIN_KNOWN)
