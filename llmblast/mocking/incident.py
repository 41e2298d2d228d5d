"""Incidents: what a fault knows of the request that it meets, to make the reply."""

from collections.abc import Callable
from dataclasses import dataclass

from llmblast.mocking.answers import Answer
from llmblast.mocking.replies import ScriptedReply


@dataclass(frozen=True, slots=True)
class Incident:
    """A request that the limits have admitted, and the answer that it would have had."""

    answer: Answer
    wall_now_s: float
    is_kept: bool = False
    """The connection has carried a request before."""
    seconds: float | None = None
    """Duration that the rule sets; each fault has its own default."""

    request_id: str = ""
    """Value of `x-request-id`."""

    def seconds_or(self, default: float) -> float:
        return default if self.seconds is None else self.seconds


Fault = Callable[[Incident], ScriptedReply]
