"""Endpoint pool: the endpoints of a run, and which of them may take a line."""

from collections.abc import Sequence

from llmblast.models import Attempt, Request
from llmblast.scheduling.endpoints import Endpoint


class EndpointPool:
    """All endpoints of a run."""

    __slots__ = ("all", "enabled", "reserve")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.all = tuple(endpoints)
        self.enabled = self.all
        """Those that are not disabled."""
        self.reserve: tuple[Endpoint, ...] = ()
        """The endpoint that gets only lines whose answers from the others did not fit, and those that only it can take,
        unless it is disabled.
        """

    def __repr__(self) -> str:
        return f"EndpointPool({', '.join(endpoint.name for endpoint in self.enabled)})"

    @property
    def is_exhausted(self) -> bool:
        """Every endpoint is disabled: nothing can be sent any more."""
        return not self.enabled

    def usable_for(self, attempt: Attempt) -> Sequence[Endpoint]:
        """Return the endpoints that speak the request's API, have not refused it and accept its model."""
        usable, model = self.enabled, attempt.request.model
        is_escalated = attempt.invalid is not None and attempt.invalid.in_reserve
        if is_escalated or (self.reserve and self._only_reserve_takes(attempt.request)):
            usable = self.reserve
        if barred := attempt.refused_by | attempt.request.closed_to:
            usable = tuple(endpoint for endpoint in usable if not barred & endpoint.bit)
        if model is not None:
            usable = tuple(endpoint for endpoint in usable if not endpoint.has_lost(model))
        return usable

    def can_take(self, attempt: Attempt) -> bool:
        """Return whether some endpoint has not refused the request and accepts its model."""
        return bool(self.usable_for(attempt))

    def disable(self, endpoint: Endpoint, reason: str) -> None:
        """Send nothing to this endpoint any more."""
        endpoint.health.disabled = reason
        self.enabled = tuple(e for e in self.enabled if e is not endpoint)
        self.reserve = tuple(e for e in self.reserve if e is not endpoint)

    def keep_in_reserve(self, endpoint: Endpoint) -> None:
        """Send only escalated lines to this endpoint, and those that no other can take. The run as a whole does not
        depend on it.
        """
        self.enabled = tuple(e for e in self.enabled if e is not endpoint)
        self.reserve = (endpoint,)

    def _only_reserve_takes(self, request: Request) -> bool:
        """Return whether a line is closed to all other endpoints: it may name that one."""
        closed_to = request.closed_to
        return closed_to != 0 and all(closed_to & e.bit for e in self.all if e not in self.reserve)
