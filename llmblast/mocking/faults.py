"""What goes wrong with a request, and how long its answer takes: drawn from the seed and the body, not from the order.

Two runs that send the same bodies meet the same faults, however many connections they use and whatever comes first. A
body that is sent again has a new draw, so that a retry can succeed.
"""

from enum import Enum
from hashlib import blake2b

from llmblast.mocking.settings import MockSettings

MAX_BODIES_REMEMBERED = 100_000
_HALF_BITS = 64
_HALF_RANGE = float(2**_HALF_BITS)


class Fault(Enum):
    """What becomes of a request that the limits have admitted."""

    NONE = "none"
    ERROR = "500"
    RATE_LIMITED = "429"
    BROKEN = "the connection is closed without an answer"
    MALFORMED = "200 with a body that is no JSON"


class Faults:
    """Draws a fault and a latency for each request. How often a body was seen is forgotten oldest first."""

    def __init__(self, settings: MockSettings) -> None:
        self._shares = (
            (Fault.ERROR, settings.errors),
            (Fault.RATE_LIMITED, settings.rate_limited),
            (Fault.BROKEN, settings.broken),
            (Fault.MALFORMED, settings.malformed),
        )
        self._has_faults = any(share for _, share in self._shares)
        self._shortest_s = settings.latency * (1 - settings.jitter)
        self._spread_s = settings.latency * settings.jitter * 2
        self._key = settings.seed.to_bytes(8, "big")
        self._times_seen: dict[int, int] = {}

    def draw(self, body: bytes) -> tuple[Fault, float]:
        """The fault of this request and the seconds until its answer."""
        if not self._has_faults and not self._spread_s:
            return Fault.NONE, self._shortest_s
        attempt = self._count(body) if self._has_faults else 0
        salt = attempt.to_bytes(8, "big")
        bits = int.from_bytes(blake2b(body, digest_size=16, key=self._key, salt=salt).digest(), "big")
        latency_s = self._shortest_s + self._spread_s * ((bits >> _HALF_BITS) / _HALF_RANGE)
        return self._fault_at((bits % 2**_HALF_BITS) / _HALF_RANGE), latency_s

    def _fault_at(self, point: float) -> Fault:
        for fault, share in self._shares:
            if point < share:
                return fault
            point -= share
        return Fault.NONE

    def _count(self, body: bytes) -> int:
        seen, key = self._times_seen, hash(body)
        attempt = seen.pop(key, 0)
        seen[key] = attempt + 1
        if len(seen) > MAX_BODIES_REMEMBERED:
            del seen[next(iter(seen))]
        return attempt
