"""Status line: the state of a run in one line of text."""

from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.formatting import clock_time, count, percent, rate, short
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.rates import Snapshot
from llmblast.watching.sanitize import sanitize_text

_MAX_STATES = 3


def status_line(snapshot: Snapshot, counters: Counters, limits: LimitsView) -> str:
    """Return the state of the run in one line, without unknown values."""
    parts = [
        clock_time(snapshot.elapsed_s),
        progress_text(snapshot),
        f"{rate(snapshot.requests_per_s)}/s",
    ]
    if counters.tokens or limits.tokens_per_minute_limit:
        limit = f" of {short(limits.tokens_per_minute_limit)}" if limits.tokens_per_minute_limit else ""
        parts.append(f"tokens {short(snapshot.tokens_per_min)}/min{limit}")
    parts += [
        f"in flight {count(counters.in_flight)}",
        f"retries {count(counters.retries)}",
        f"429s {count(counters.rate_limited)}",
        f"errors {count(counters.failed)}",
    ]
    if batches := batches_text(counters):
        parts.append(batches)
    if snapshot.eta_s is not None:
        parts.append(f"ETA {clock_time(snapshot.eta_s)}")
    if snapshot.held_back:
        parts.append(sanitize_text(snapshot.held_back))
    return "  ".join(parts + _states([endpoint for endpoint in counters.endpoints if endpoint.state]))


def progress_text(snapshot: Snapshot) -> str:
    """Return `1,234/~10,000 (12 %)`; `~` marks an estimated total."""
    if snapshot.total is None:
        return f"{count(snapshot.done)} done"
    estimated = "" if snapshot.total.is_exact else "~"
    share = percent(snapshot.done, snapshot.total.lines)
    return f"{count(snapshot.done)}/{estimated}{count(snapshot.total.lines)} ({share})"


def batches_text(counters: Counters) -> str:
    """Return `in batches 12,000 lines (3 batches, 40 % done)`; nothing while no line is in one."""
    if not counters.batches_open:
        return ""
    batches = "1 batch" if counters.batches_open == 1 else f"{count(counters.batches_open)} batches"
    done = percent(counters.batch_lines_done, counters.batch_lines)
    return f"in batches {count(counters.batch_lines)} lines ({batches}, {done} done)"


def _states(troubled: list[EndpointCounters]) -> list[str]:
    shown = [
        f"{sanitize_text(endpoint.name, 40)}: {sanitize_text(endpoint.state, 80)}"
        for endpoint in troubled[:_MAX_STATES]
    ]
    more = len(troubled) - len(shown)
    return [*shown, f"and {count(more)} more"] if more else shown
