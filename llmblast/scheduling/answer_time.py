"""Answer time: how long a request takes at most, as a rule: the average and four mean deviations (RFC 6298)."""

from typing import Final

_GAIN: Final = 0.125
_DEVIATION_GAIN: Final = 0.25
_DEVIATIONS: Final = 4.0


class AnswerTime:
    """Moving averages of the latency of answers and of its deviation, in seconds."""

    __slots__ = ("_deviation_s", "average_s")

    def __init__(self) -> None:
        self.average_s = 0.0
        self._deviation_s = 0.0

    @property
    def usual_max_s(self) -> float:
        """Return the time that few answers exceed; 0 while none is known."""
        return self.average_s + _DEVIATIONS * self._deviation_s

    def record(self, latency_s: float) -> None:
        """Record the latency of an answer."""
        if not self.average_s:
            self.average_s, self._deviation_s = latency_s, latency_s / 2
            return
        error_s = latency_s - self.average_s
        self._deviation_s += _DEVIATION_GAIN * (abs(error_s) - self._deviation_s)
        self.average_s += _GAIN * error_s
