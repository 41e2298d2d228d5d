"""Sequential test: decide after as few requests as possible which of two shares of rejections an endpoint has.

This is Wald's sequential probability ratio test (Annals of Mathematical Statistics 16(2), 1945). Where the caller never
lets the evidence fall below 0, it is Page's cumulative sum (CUSUM, Biometrika 41, 1954), which notices a change.
"""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class SequentialTest:
    """Evidence, as a log likelihood ratio, that the share of rejections is a high one and not a low one.

    Requests sent before `since_s` are not judged; `counted_s` is when the first outcome of the others is due.
    """

    per_send: float
    per_rejection: float
    since_s: float
    counted_s: float
    all_sends: int = 0
    """Requests since the test was made, those before `restart` included."""
    earlier_sends: int = 0
    rejections: int = 0
    evidence: float = 0.0

    @classmethod
    def between(cls, low: float, high: float, since_s: float, counted_s: float) -> "SequentialTest":
        """Return a test that tells the share `low` from the share `high`."""
        return cls(math.log((1 - high) / (1 - low)), math.log(high / low), since_s, counted_s)

    @property
    def sends(self) -> int:
        """Return the number of requests that are judged."""
        return self.all_sends - self.earlier_sends

    def restart(self, since_s: float, counted_s: float) -> None:
        """Judge only what is sent from now on."""
        self.since_s, self.counted_s, self.earlier_sends = since_s, counted_s, self.all_sends
        self.rejections, self.evidence = 0, 0.0
