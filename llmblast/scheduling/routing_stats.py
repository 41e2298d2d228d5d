"""Routing statistics: what the routes know of one endpoint beside its load."""

from dataclasses import dataclass
from typing import Final

_LATENCY_GAIN: Final = 0.1
_FAILED_LATENCY_S: Final = 0.1
_MAX_LATENCY_S: Final = 60.0


@dataclass(slots=True, eq=False)
class RoutingStats:
    """An endpoint's weight, its credit in the weighted round robin, and its average latency."""

    weight: float
    wrr_credit: float = 0.0
    latency_s: float = 0.0

    def record_latency(self, latency_s: float) -> None:
        """Move the average latency."""
        self.latency_s += (_LATENCY_GAIN if self.latency_s else 1.0) * (latency_s - self.latency_s)

    def record_failure(self) -> None:
        """Raise the average latency: failures are often quick, and must not attract what `fastest` sends."""
        self.latency_s = min(max(2 * self.latency_s, _FAILED_LATENCY_S), _MAX_LATENCY_S)
