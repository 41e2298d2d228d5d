"""Flex tier: which lines ask for it, and what happens to those for which it has no capacity.

A refusal for want of capacity says nothing about the endpoint's limits, nor about the line: it waits and tries again,
until its deadline is near or it has waited for too long, and then goes in the standard tier. After some refusals the
others wait, too; see `FlexCapacity`. Where a provider says that
the model has no such tier, all further lines go in the standard tier. Sources: OpenAI and Azure refuse with 429
`resource_unavailable`, Groq with 498, Gemini with 503.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llmblast.models import Attempt, Reply, Request
from llmblast.scheduling import Endpoint, FlexCapacity
from llmblast.scheduling.flex_capacity import FIRST_WAIT_S, MAX_WAIT_S, NEAR_S
from llmblast.sending import Verdict

_NO_CAPACITY: Final = 498
_BUSY: Final = (429, 503)
_CAPACITY: Final = ("resource unavailable", "resource_unavailable", "capacity", "unavailable")
_BAD_REQUEST: Final = (400, 422)
_TIER: Final = ("service_tier", "service tier", "servicetier", "flex")


@dataclass(slots=True, eq=False)
class FlexTier:
    """`endpoints_for` returns the bit set of the endpoints whose flex tier a deferred line asks for; `jitter` a number
    from 0 to 1.
    """

    endpoints_for: Callable[[Request], int]
    wall_clock: Callable[[], float]
    max_wait_s: float
    say: Callable[[str], None]
    jitter: Callable[[], float]
    _missing_at: int = 0
    """Bit set of the endpoints that have no such tier."""

    def mark(self, attempt: Attempt) -> None:
        """Let a line that was read ask for the flex tier where it may."""
        request = attempt.request
        if request.terms.is_deferred and not self._is_near(request):
            attempt.flex_at = self.endpoints_for(request) & ~self._missing_at

    def on_refusal(
        self, attempt: Attempt, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float
    ) -> float | None:
        """Return the seconds after which a line goes again whose refusal has to do with the tier; None for others."""
        if self._has_no_tier(reply, verdict):
            if not self._missing_at & endpoint.bit:
                self._missing_at |= endpoint.bit
                self.say(f"{endpoint.name}: has no flex tier here: lines go in the standard tier: {verdict.message}")
            attempt.flex_at &= ~endpoint.bit
            return 0.0
        if not self._has_no_capacity(reply, verdict):
            return None
        if endpoint.flex is None:
            endpoint.flex = FlexCapacity(self.max_wait_s)
        endpoint.flex.on_refusal(attempt.sent_s, now, self.jitter())
        in_row = min(attempt.flex_refusals, endpoint.flex.refusals - 1)  # while others are answered, it may try soon
        wait_s = min(FIRST_WAIT_S * 2.0**in_row, MAX_WAIT_S)
        waited_s = min(FIRST_WAIT_S * (2.0**attempt.flex_refusals - 1), attempt.flex_refusals * MAX_WAIT_S)
        attempt.flex_refusals += 1
        wait_s = max(wait_s * (0.5 + 0.5 * self.jitter()), min(verdict.wait_s or 0.0, MAX_WAIT_S))
        if waited_s + wait_s > self.max_wait_s or self._is_near(attempt.request, wait_s):
            attempt.flex_at = 0
            return 0.0
        return wait_s

    def _is_near(self, request: Request, wait_s: float = 0.0) -> bool:
        return request.terms.deadline_s - self.wall_clock() < NEAR_S + wait_s

    @staticmethod
    def _has_no_capacity(reply: Reply, verdict: Verdict) -> bool:
        said = f"{verdict.code} {verdict.message}".lower()
        return reply.status == _NO_CAPACITY or (reply.status in _BUSY and any(word in said for word in _CAPACITY))

    @staticmethod
    def _has_no_tier(reply: Reply, verdict: Verdict) -> bool:
        said = f"{verdict.code} {verdict.message}".lower()
        return reply.status in _BAD_REQUEST and any(word in said for word in _TIER)
