"""Answer time: how long a request takes at most, as a rule: the average and four mean deviations (RFC 6298).

With many in flight, each answer counts less, so that the memory spans the same number of round trips (RFC 7323,
appendix G).
"""

from typing import Final

_GAIN: Final = 0.125
_DEVIATION_GAIN: Final = 0.25
_DEVIATIONS: Final = 4.0


class AnswerTime:
    """Moving averages of the latency of answers and of its deviation, in seconds."""

    __slots__ = ("_answers", "_deviation_s", "average_s")

    def __init__(self) -> None:
        self._answers = 0
        self.average_s = 0.0
        self._deviation_s = 0.0

    @property
    def usual_max_s(self) -> float:
        """Return the time that few answers exceed; 0 while none is known."""
        return self.average_s + _DEVIATIONS * self._deviation_s

    def record(self, latency_s: float, in_flight: int) -> None:
        """Record the latency of an answer to a request that was sent with that many in flight."""
        self._answers += 1
        if self._answers == 1:
            self.average_s, self._deviation_s = latency_s, latency_s / 2
            return
        error_s = latency_s - self.average_s
        share = 1.0 if in_flight <= 2 else 2.0 / in_flight
        first_gain = 1.0 / self._answers  # the first ones count alike
        self._deviation_s += max(share * _DEVIATION_GAIN, first_gain) * (abs(error_s) - self._deviation_s)
        self.average_s += max(share * _GAIN, first_gain) * error_s
