"""What a fault is: a function from what it knows of the request that it befalls to what is sent back."""

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
    """Its connection has carried a request before."""
    seconds: float | None = None
    """How long, where the rule says so; each fault has a default of its own."""

    request_id: str = ""
    """What `x-request-id` tells of it."""

    def seconds_or(self, default: float) -> float:
        return default if self.seconds is None else self.seconds


Fault = Callable[[Incident], ScriptedReply]
