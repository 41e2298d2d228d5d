"""Traffic: what was sent to one endpoint and answered by it, in counts and moments."""

import math
from dataclasses import dataclass, field

from llmblast.scheduling.counted_requests import RequestCount


@dataclass(slots=True, eq=False)
class Traffic:
    """Moments are monotonic seconds."""

    in_flight: int = 0
    sends: int = 0
    answers: int = 0
    """Usable answers in this run."""
    first_sent_s: float = math.inf
    last_sent_s: float = -math.inf
    last_answered_sent_s: float = -math.inf
    """When the latest request that was answered had been sent."""
    count: RequestCount = field(default_factory=RequestCount)
