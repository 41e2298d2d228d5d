"""Health of one endpoint: its circuit breakers, those of the models that lines name, and why it is out."""

from enum import Enum

from llmblast.models import Attempt, Request
from llmblast.scheduling.breakers import Breaker, Outage
from llmblast.scheduling.outcomes import Kind, SendOutcome
from llmblast.scheduling.own_models import OwnModels
from llmblast.scheduling.refusals import RefusalBreaker

FAILING_LINES = 10
"""Lines in a row that fail at one endpoint before it counts as down. Fewer may just be lines that it cannot digest,
which must come to their end by `max_attempts`."""


class HealthState(Enum):
    """State of an endpoint; if several apply, the first one counts."""

    DISABLED = "off"
    """Nothing is sent there any more."""
    DOWN = "down"
    """No connection can be opened."""
    FAILING = "failing"
    """It can be reached, but no line is answered any more."""
    SUSPECTED = "suspected"
    """It has refused lines in a row; single ones probe it."""
    HEALTHY = "healthy"


class EndpointHealth:
    """Health of an endpoint: is it reachable, does it answer, does it accept lines?"""

    __slots__ = ("_models", "blocked", "breaker", "disabled", "last_error", "outage", "refusals")

    def __init__(self, name: str, models: OwnModels) -> None:
        self._models = models
        self.breaker = Breaker(f"{name} breaker")
        """Opens when no connection can be opened."""
        self.outage = Outage(f"{name} outage", threshold=FAILING_LINES)
        """Opens when the endpoint can be reached, but no line is answered any more."""
        self.refusals = RefusalBreaker(f"{name} refusals")
        """Opens when lines in a row are refused for good."""
        self.disabled: str | None = None
        """Why nothing is sent there any more, in words."""
        self.last_error = ""
        self.blocked = ""
        """The rate limit that lasts for longer than the run may wait, in words."""

    def __repr__(self) -> str:
        return f"EndpointHealth({self.state.value}, {self.refusals!r})"

    @property
    def state(self) -> HealthState:
        """The state of the moment."""
        if self.disabled is not None:
            return HealthState.DISABLED
        if self.breaker.is_open:
            return HealthState.DOWN
        if self.outage.is_open:
            return HealthState.FAILING
        return HealthState.SUSPECTED if self.refusals.is_suspected else HealthState.HEALTHY

    def on_answer(self, attempt: Attempt) -> bool:
        """Record an answer. Return whether it shows that refused lines are to blame."""
        sent_s = attempt.sent_s
        self.breaker.record_success()
        self.outage.record_success(sent_s)
        clears = self.refusals.on_answer(sent_s)
        if (model := self._models.get(attempt.request.model)) is not None:
            clears = model.refusals.on_answer(sent_s) or clears
        return clears

    def on_outcome(self, attempt: Attempt, outcome: SendOutcome, now: float) -> None:
        """Record the end of a send without an answer."""
        sent_s = attempt.sent_s
        if outcome.kind is Kind.UNREACHABLE:
            self.breaker.record_failure(now, sent_s)
        else:
            self.breaker.record_inconclusive(now, sent_s)
        if outcome.kind is Kind.REFUSED:
            self.outage.record_success(sent_s)
            self._on_refusal(attempt, outcome, now)
        elif outcome.kind is not Kind.FAILED:
            self.outage.record_inconclusive(now, sent_s)
        elif outcome.is_first or self.outage.is_open:  # a bad line that is tried five times says less than five lines
            self.outage.record_failure(now, sent_s)

    def breaker_of(self, request: Request) -> RefusalBreaker:
        """Return the breaker that decides on a refusal of that line: its model's, where the line names one."""
        model = self._models.get(request.model)
        return self.refusals if model is None else model.refusals

    def _on_refusal(self, attempt: Attempt, outcome: SendOutcome, now: float) -> None:
        """Record a refusal; see `RefusalBreaker`. A model that never got an answer, where others did, is no evidence
        against its endpoint.
        """
        request, signature, is_blamed = attempt.request, outcome.signature, outcome.is_blamed
        line = request.number if request.file is None else hash((request.file, request.number))
        model = self._models.get(request.model)
        if model is not None:
            model.refusals.on_refusal(line, signature, attempt.sent_s, now, is_blamed=is_blamed)
            if self.refusals.has_answered and not model.refusals.has_answered and not is_blamed:
                return
        self.refusals.on_refusal(line, signature, attempt.sent_s, now, is_blamed=is_blamed)
