"""Traffic: what was sent to one endpoint and answered by it, in counts and moments."""

import math
from dataclasses import dataclass

NOT_COUNTED = -1.0
"""Stands for a count that is known to say nothing."""


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
    counted: float = 0.0
    """How many requests the server counts in its window or bucket, as its headers say; 0 where they have not said so,
    `NOT_COUNTED` after a rejection."""
