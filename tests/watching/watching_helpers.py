"""What several tests of the room share."""

from llmblast.watching.costs import Used
from llmblast.watching.counters import Counters, EndpointCounters


class FakeClock:
    """Monotonic seconds that pass only when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def endpoint(
    name: str, sent: int = 0, succeeded: int = 0, state: str = "", *, tokens: tuple[int, int] = (0, 0)
) -> EndpointCounters:
    """`tokens` are those of the prompts and of the answers."""
    counters = EndpointCounters(name, sent=sent, succeeded=succeeded, state=state, used=Used())
    counters.used.all.add(tokens[0], 0, tokens[1])
    return counters


def busy_counters(endpoints: int = 3) -> Counters:
    """A run of large figures, part-way through its file."""
    rows = [endpoint(f"endpoint-{n}.inference.example.com:8000", 3_456_789, 3_400_000) for n in range(endpoints)]
    counters = Counters(endpoints=rows, input_bytes=10_000_000_000, bytes_read=1_000_000_000, lines_read=1_200_000)
    counters.sent, counters.succeeded, counters.failed = 1_190_000, 1_180_000, 4_321
    counters.in_flight, counters.queued, counters.retries, counters.rate_limited = 25_600, 12_288, 33_333, 44_444
    rows[0].used.all.add(250_000_000, 0, 310_000_000)
    for row in rows:
        row.in_flight, row.errors, row.rate_limited = 8_192, 54_321, 65_432
        row.latency.add(123.4)
    return counters
