"""Parked lines: those that wait aside, since the endpoints that can take them have no room, while others go."""

from llmblast.models import Attempt


class ParkedLines:
    """Lines in the order in which they were parked first, each with the endpoints that it waits for, as a bit set."""

    __slots__ = ("endpoints", "may_wait_for_cache")

    def __init__(self) -> None:
        self.endpoints: dict[Attempt, int] = {}
        self.may_wait_for_cache = True
        """Lines may be parked until an endpoint has their prefix in its cache."""

    @property
    def claimed(self) -> int:
        """Return the bit set of the endpoints that immediate lines wait for: their next room is not for others."""
        claimed = 0
        for attempt, endpoints in self.endpoints.items():
            if not attempt.request.terms.is_deferred:
                claimed |= endpoints
        return claimed

    def add(self, attempt: Attempt, endpoints: int) -> None:
        """Record that a line waits; one that was parked before keeps its place."""
        self.endpoints[attempt] = endpoints

    def discard(self, attempt: Attempt) -> None:
        """Record that a line waits no more."""
        self.endpoints.pop(attempt, None)

    def first_for(self, endpoints: int) -> Attempt | None:
        """Return the line that has waited longest for one of these endpoints, an immediate one if there is any."""
        first = None
        for attempt, waits_for in self.endpoints.items():
            if waits_for & endpoints:
                if not attempt.request.terms.is_deferred:
                    return attempt
                first = first or attempt
        return first
