"""Frames: what the leader of a crew and its workers tell each other in one turn of their loops.

A send is named by its line's number times the number of endpoints plus the endpoint's index. A text line is its number,
its key and its text, and for an oversized one, of which only the start is kept, its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any


@dataclass(slots=True)
class Orders:
    """From the leader."""

    lines: list[Any] = field(default_factory=list)
    """Lists of text lines, to be shaped."""
    own_lines: list[Any] = field(default_factory=list)
    """The same, to be shaped and sent by the worker on its own account, as its slots allow."""
    starts: list[Any] = field(default_factory=list)
    """Send, moment of its admission, send, moment, ..."""
    restarts: list[tuple[int, float, tuple[int, int, bool]]] = field(default_factory=list)
    """Of requests that failed before: send, moment, (attempts, ambiguous sends, needs a fresh connection)."""
    forgotten: list[int] = field(default_factory=list)
    """Numbers of lines whose end the leader saw to."""
    cancelled: list[int] = field(default_factory=list)
    warm_ups: list[tuple[int, int, int]] = field(default_factory=list)
    """Number of the call, index of the endpoint, how many connections."""
    lent: int = 0
    """So many slots more that the worker may fill on its own account."""
    asked: int = 0
    """So many that it is to give back as they become free."""
    heard: int = 0
    """So many own lines without an answer has the leader heard of: once of all of them, a worker that halts goes on."""
    recall: bool = False
    """Own lines that have not been sent are the leader's again."""

    def packed(self) -> tuple[Any, ...]:
        """What a link takes."""
        return _packed_orders(self)


@dataclass(slots=True)
class News:
    """From a worker."""

    shaped: list[Any] = field(default_factory=list)
    """For each list of lines one of (bytes of the body, max_tokens, deferred), or (what is wrong, id)."""
    answered: list[Any] = field(default_factory=list)
    """(send, latency, finish reason, prompt and completion tokens, headers or None, record)."""
    replies: list[Any] = field(default_factory=list)
    """All that is no answer: (send, status, headers, body, cause, detail, what the record needs of the line)."""
    late: list[tuple[int, bool]] = field(default_factory=list)
    results: list[tuple[int, str | None]] = field(default_factory=list)
    """Of warm-ups: why there is no connection."""

    records: bytes = b""
    """Of own lines that were answered, as is all up to `headers`."""
    latencies: list[float] = field(default_factory=list)
    slow: list[tuple[float, float]] = field(default_factory=list)
    """When it was sent, and the latency, of those that say something of the endpoint's capacity."""
    flagged: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_answered_sent_s: float = 0.0
    headers: Mapping[bytes, bytes] | None = None

    sent: int = 0
    """Own lines sent, the last one at `last_sent_s`."""
    last_sent_s: float = 0.0
    failed: list[Any] = field(default_factory=list)
    """Own lines whose send brought no answer: (text line, shaped, moment of the send, the rest of a reply). The slot of
    each goes back with it."""
    refused: list[Any] = field(default_factory=list)
    """Own lines that are bad: (text line, what is wrong, id)."""
    returned: list[Any] = field(default_factory=list)
    """Own lines that were recalled: (text line, shaped)."""
    given_back: int = 0
    """Slots."""
    taken: int = 0
    """Lists of own lines."""
    in_flight: int = 0
    """On its own account, at this moment."""
    own_bytes: int = 0
    """Of own lines that have not come to their end, at this moment."""
    waiting_bytes: int = 0
    """Of those among them that have not been sent."""

    def packed(self) -> tuple[Any, ...]:
        """What a link takes."""
        return _packed_news(self)


_packed_orders = attrgetter(*(entry.name for entry in fields(Orders)))
_packed_news = attrgetter(*(entry.name for entry in fields(News)))
