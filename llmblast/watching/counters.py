"""Counters: the progress of a run in plain numbers. The stations add to them, the displays read them.

Nothing here grows with the run: latencies go into a histogram of fixed size, kinds of errors into a table with a cap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from llmblast.watching.costs import Cost, Prices, Used, sum_of

MAX_ERROR_KINDS: Final = 100
_MIN_LATENCY_S: Final = 1e-4
_BUCKETS_PER_DOUBLING: Final = 16
_BUCKETS_PER_E: Final = _BUCKETS_PER_DOUBLING / math.log(2.0)
"""For natural logarithms, which compiled code takes without a call of Python."""
_BUCKET_COUNT: Final = 24 * _BUCKETS_PER_DOUBLING


class Histogram:
    """Count latencies in buckets that grow by 4.4 %, from 0.1 ms to 28 minutes. Quantiles are exact to half of one."""

    __slots__ = ("_buckets", "total_s")

    def __init__(self) -> None:
        self._buckets = [0] * (_BUCKET_COUNT + 1)
        self.total_s = 0.0

    @property
    def count(self) -> int:
        """Number of latencies."""
        return sum(self._buckets)

    def add(self, latency_s: float) -> None:
        """Count one latency."""
        self.total_s += latency_s
        if latency_s <= _MIN_LATENCY_S:
            self._buckets[0] += 1
            return
        index = int(math.log(latency_s / _MIN_LATENCY_S) * _BUCKETS_PER_E) + 1
        self._buckets[min(index, _BUCKET_COUNT)] += 1

    def merge(self, other: "Histogram") -> None:
        """Add the latencies of another histogram."""
        self.total_s += other.total_s
        self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, other._buckets, strict=True)]

    def quantile(self, share: float) -> float | None:
        """Return the seconds that `share` of the latencies did not exceed; None before the first one."""
        count = self.count
        if not count:
            return None
        rank, seen = math.ceil(share * count), 0
        for index, bucket in enumerate(self._buckets):
            seen += bucket
            if seen >= rank and bucket:
                return _MIN_LATENCY_S * 2 ** ((index - 0.5) / _BUCKETS_PER_DOUBLING)
        return None

    def share_above(self, latency_s: float) -> float:
        """Return the share of longer latencies."""
        count = self.count
        if not count:
            return 0.0
        index = int(math.log(max(latency_s, _MIN_LATENCY_S) / _MIN_LATENCY_S) * _BUCKETS_PER_E) + 1
        return sum(self._buckets[index + 1 :]) / count


@dataclass(slots=True)
class ErrorKind:
    """One kind of error: how often, and the line of its first case."""

    count: int
    first_line: int
    message: str
    first_file: str | None = None
    """The file of that line, if there are several."""


@dataclass(slots=True)
class EndpointCounters:
    """Counters of one endpoint."""

    name: str
    weight: float = 1.0
    sent: int = 0
    in_flight: int = 0
    succeeded: int = 0
    batched: int = 0
    """Answers through its batch API; they are among `succeeded`, but not among `sent`."""
    errors: int = 0
    """Replies and broken sends that were no success, rate-limit replies not counted."""
    rate_limited: int = 0
    used: Used = field(default_factory=Used)
    """Tokens that its answers have taken."""
    prices: Prices | None = None
    state: str = ""
    """For a person: empty when all is well, else such as `paused 4 s by a rate limit` or `off: HTTP 401`."""
    latency: Histogram = field(default_factory=Histogram)

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers, invalid ones too."""
        return self.used.all.prompt + self.used.all.completion


@dataclass(slots=True)
class Counters:
    """Counters of the whole run. `lines_read` counts all lines that need a record, so no blank ones."""

    endpoints: Sequence[EndpointCounters] = ()
    input_bytes: int | None = None
    """Size of the input; None where it is not known, as with a pipe."""
    lines_limit: int | None = None
    """Maximum number of lines that are read."""
    bytes_read: int = 0
    """Bytes of the input up to the last line in `lines_read`, so that both together give an estimate of all lines."""
    input_ended: bool = False
    lines_read: int = 0
    skipped: int = 0
    """Lines that an earlier run finished."""
    skipped_failed: int = 0
    """Lines whose earlier record is in errors.jsonl; they are among `skipped`."""
    malformed: int = 0
    """Bad lines; they are among `failed`."""
    sent: int = 0
    hedged: int = 0
    """Requests that were sent to a second endpoint before the first one had answered."""
    succeeded: int = 0
    cached: int = 0
    """Successes for which nothing was sent: the answer to an equal request was there."""
    batched: int = 0
    """Successes whose answer came through a provider's batch API."""
    batches_open: int = 0
    """Batches that are packed, or under way at a provider."""
    batch_lines: int = 0
    """Lines in these, and"""
    batch_lines_done: int = 0
    """how many of them the providers have worked off."""
    late: int = 0
    """Answers that came after the deadline of their line."""
    repeats: int = 0
    """Requests that `--repeat` has added to those of the lines that were read."""
    flagged: int = 0
    """Successes whose answer was cut off or filtered."""
    invalid: int = 0
    """Answers that did not fit what `--expect`, `--schema` and the like ask for."""
    repairs: int = 0
    """Requests that asked again for such an answer, with the reason."""
    escalated: int = 0
    """Lines that went to the endpoint or model of `--escalate`."""
    invalid_prompt_tokens: int = 0
    invalid_completion_tokens: int = 0
    """Tokens of the invalid answers; they are not among the others."""
    failed: int = 0
    """Records in errors.jsonl written by this run."""
    retries: int = 0
    rate_limited: int = 0
    flex_refusals: int = 0
    """Requests in a flex tier that had no capacity, or that there is none."""
    cached_tokens: int = 0
    """Prompt tokens that providers had in their caches."""
    maybe_billed: int = 0
    """Sends without a usable answer that may have been billed, including those that a hedge made superfluous."""
    abandoned: int = 0
    """Sends cut short by a second signal or by the end of the grace."""
    left_pending: int = 0
    """Lines that were read and left for another run, since a rate limit of their model lasts too long."""
    in_flight: int = 0
    queued: int = 0
    """Lines that wait in memory, including retries."""
    first_sent_s: float | None = None
    last_sent_s: float | None = None
    error_kinds: dict[str, ErrorKind] = field(default_factory=dict)

    def by_name(self) -> dict[str, object]:
        """Return all counters by their names."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @property
    def sending_s(self) -> float:
        """Seconds from the first to the last send."""
        if self.first_sent_s is None or self.last_sent_s is None:
            return 0.0
        return self.last_sent_s - self.first_sent_s

    @property
    def records_due(self) -> int:
        """Records that the lines read need, of this run or an earlier one."""
        return self.lines_read + self.repeats

    @property
    def done(self) -> int:
        """Lines that have their record, from this run or an earlier one."""
        return self.skipped + self.succeeded + self.failed

    @property
    def pending(self) -> int:
        """Lines read that have no record yet."""
        return max(self.records_due - self.done, 0)

    @property
    def has_unread_input(self) -> bool:
        """Return whether the run stopped before its input ended, by the size of the input."""
        return not self.input_ended and (self.input_bytes is None or self.bytes_read < self.input_bytes)

    @property
    def latency(self) -> Histogram:
        """Latencies of all endpoints."""
        together = Histogram()
        for endpoint in self.endpoints:
            together.merge(endpoint.latency)
        return together

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts of all answers but invalid ones."""
        return sum(endpoint.used.all.prompt for endpoint in self.endpoints) - self.invalid_prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers but invalid ones."""
        return sum(endpoint.used.all.completion for endpoint in self.endpoints) - self.invalid_completion_tokens

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens that providers reported."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> Cost | None:
        """Return the cost of the tokens at all endpoints with known prices; None where no price is known."""
        return sum_of(e.prices.cost_of(e.used) for e in self.endpoints if e.prices is not None)

    def count_error(self, code: str, line: int, message: str, file: str | None = None) -> None:
        """Count the final error of a line under its code. Kinds beyond the maximum share one entry."""
        kind = self.error_kinds.get(code)
        if kind is None and len(self.error_kinds) >= MAX_ERROR_KINDS:
            code, message = "other", "other errors"
            kind = self.error_kinds.get(code)
        if kind is None:
            self.error_kinds[code] = ErrorKind(1, line, message, file)
        else:
            kind.count += 1
