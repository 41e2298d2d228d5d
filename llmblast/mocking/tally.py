"""Tally: how many requests the mock server has received, rejected and not answered yet, and its ledgers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmblast.mocking.ledger import LedgerFile
from llmblast.mocking.quick import Incoming
from llmblast.mocking.replies import Decision, ScriptedReply


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as the server saw it. `status` is 0 where the connection is broken instead of an answer.

    `arrived_s` is monotonic; `in_flight` counts the requests without an answer at that moment, this one among them.
    """

    arrived_s: float
    path: str
    body: bytes
    has_authorization: bool
    status: int
    in_flight: int


class Tally:
    """Count requests. `ledger` has them one by one where it is kept; the file `path` gets a line for each event."""

    def __init__(self, clock: Callable[[], float], path: str | None, *, keep_ledger: bool) -> None:
        self.received = 0
        self.rejected = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.ledger: list[Arrival] = []
        self.batch_ledger: list[Mapping[str, object]] = []
        self._clock = clock
        self._keep_ledger = keep_ledger
        self._path = path
        self._file: LedgerFile | None = None

    @property
    def has_file(self) -> bool:
        """Return whether replies have to be recorded."""
        return self._file is not None

    def open(self) -> None:
        """Open the ledger file. Raises UsageError."""
        if self._path:
            self._file = LedgerFile(self._path)

    def close(self) -> None:
        """Close the ledger file."""
        if self._file is not None:
            self._file.close()

    def record_arrival(self, incoming: Incoming) -> None:
        """Number a request, and count it as in flight."""
        self.received += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        incoming.number, incoming.in_flight, incoming.arrived_s = self.received, self.in_flight, self._clock()

    def record_decision(self, incoming: Incoming, decision: Decision) -> Decision:
        """Record what was decided, in the order in which bodies were complete. Return the decision."""
        if decision.reply.status == 429:
            self.rejected += 1
        if self._file is not None:
            self._file.received(incoming.number, incoming.arrived_s, incoming.path, incoming.body, decision.fault)
        if self._keep_ledger:
            status = 0 if decision.reply.break_connection else decision.reply.status
            has_authorization = incoming.authorization is not None or incoming.api_key is not None
            self.ledger.append(
                Arrival(incoming.arrived_s, incoming.path, incoming.body, has_authorization, status, incoming.in_flight)
            )
        return decision

    def record_reply(self, incoming: Incoming, reply: ScriptedReply, *, is_out: bool) -> None:
        """Record a reply that was sent; `is_out` says whether the client was there until its end."""
        if self._file is not None:
            status = 0 if reply.break_connection else reply.status
            is_complete = is_out and reply.is_whole
            self._file.answered(incoming.number, self._clock(), status, is_complete, reply.text)

    def record_batch_event(self, event: Mapping[str, object]) -> None:
        """Record what happened to a batch."""
        event = {**event, "at": self._clock()}
        if self._file is not None:
            self._file.batch_event(event)
        if self._keep_ledger:
            self.batch_ledger.append(event)
