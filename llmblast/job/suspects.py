"""Suspects: lines that were refused for good, as long as it is open whether they or their endpoint are to blame."""

from collections.abc import Callable
from typing import NamedTuple

from llmblast.models import Attempt, Reply
from llmblast.scheduling import Endpoint
from llmblast.sending import Verdict

MAX_WAIT_S = 5.0
"""How long a suspect waits for the replies of other lines when none are under way, such as behind a quiet pipe."""


class Suspect(NamedTuple):
    """A refused line, with its last reply, the verdict on that, and the endpoint. `since_s` is monotonic."""

    attempt: Attempt
    endpoint: Endpoint
    reply: Reply
    verdict: Verdict
    since_s: float

    def was_refused_by(self, endpoint: Endpoint) -> bool:
        """Return whether that endpoint, among others, has refused the line."""
        return bool(self.attempt.refused_by & endpoint.bit)

    def is_shown_by(self, answered: Attempt, endpoint: Endpoint) -> bool:
        """Return whether an answer shows that this line is to blame: the same endpoint had refused it before that was
        sent, and for the same model, where this line names one.
        """
        if self.since_s > answered.sent_s or not self.was_refused_by(endpoint):
            return False
        breaker = endpoint.breaker_of(self.attempt.request)
        return breaker in (endpoint.health.refusals, endpoint.breaker_of(answered.request))

    @property
    def is_likely_to_blame(self) -> bool:
        """A line that was sent with this one, or later, has its answer, or the reply says that nothing is there."""
        return self.verdict.is_not_found or self.endpoint.traffic.last_answered_sent_s >= self.attempt.sent_s

    def has_timed_out(self, now: float) -> bool:
        """Return whether no other line shows anything soon: for some seconds none was sent that could."""
        is_old = now - self.since_s >= MAX_WAIT_S
        return is_old and self.endpoint.breaker_of(self.attempt.request).is_idle(now, MAX_WAIT_S)


class Suspects:
    """The refused lines of all endpoints. There are few: a row of them takes their endpoint out."""

    def __init__(self) -> None:
        self._suspects: list[Suspect] = []

    def __len__(self) -> int:
        return len(self._suspects)

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def add(self, suspect: Suspect) -> None:
        """Keep one more."""
        self._suspects.append(suspect)

    def take(self, is_taken: Callable[[Suspect], bool]) -> list[Suspect]:
        """Remove and return those for which `is_taken` holds."""
        taken = [suspect for suspect in self._suspects if is_taken(suspect)]
        if taken:
            self._suspects = [suspect for suspect in self._suspects if not is_taken(suspect)]
        return taken

    def take_all(self) -> list[Suspect]:
        """Remove and return all."""
        taken, self._suspects = self._suspects, []
        return taken
