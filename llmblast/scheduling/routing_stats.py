"""Routing statistics: what the routes know of one endpoint beside its load."""

from llmblast.fence import Fence

_LATENCY_GAIN = 0.1
_FAILED_LATENCY_S = 0.1
_MAX_LATENCY_S = 60.0


class RoutingStats:
    """An endpoint's weight, its credit in the weighted round robin, and its average latency."""

    __slots__ = ("_fence", "_name", "latency_s", "weight", "wrr_credit")

    def __init__(self, name: str, weight: float, fence: Fence) -> None:
        self._name = name
        self._fence = fence
        self.weight = weight
        self.wrr_credit = 0.0
        self.latency_s = 0.0

    def record_latency(self, latency_s: float) -> None:
        """Move the average latency."""
        try:
            self.latency_s += (_LATENCY_GAIN if self.latency_s else 1.0) * (latency_s - self.latency_s)
        except Exception as error:  # noqa: BLE001 -- advice
            self._fence.switch_off(f"the average latency of {self._name}", error)

    def record_failure(self) -> None:
        """Raise the average latency: failures are often quick, and must not attract what `fastest` sends."""
        self.latency_s = min(max(2 * self.latency_s, _FAILED_LATENCY_S), _MAX_LATENCY_S)
