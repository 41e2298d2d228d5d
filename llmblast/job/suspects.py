"""Suspects: lines that were refused for good, as long as it is open whether they or their endpoint are to blame."""

from typing import NamedTuple

from llmblast.records import Reply, Request
from llmblast.scheduling import Endpoint
from llmblast.sending import Verdict

MAX_WAIT_S = 5.0
"""How long a suspect waits for the replies of other lines when there are none, such as behind a quiet pipe."""


class Suspect(NamedTuple):
    """A refused line, with what was said of it. `since_s` is monotonic."""

    request: Request
    endpoint: Endpoint
    reply: Reply
    verdict: Verdict
    since_s: float


class Suspects:
    """The refused lines of all endpoints. There are few: a row of them takes their endpoint out."""

    def __init__(self) -> None:
        self._suspects: list[Suspect] = []

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def __len__(self) -> int:
        return len(self._suspects)

    @property
    def oldest_s(self) -> float:
        """Return since when the first of them waits."""
        return self._suspects[0].since_s

    def add(self, suspect: Suspect) -> None:
        """Keep one more."""
        self._suspects.append(suspect)

    def take(self, endpoint: Endpoint, model: str | None = None) -> list[Suspect]:
        """Remove and return those of an endpoint; only those of a model, where one is named."""
        taken = [s for s in self._suspects if s.endpoint is endpoint and model in (None, s.request.model)]
        self._suspects = [s for s in self._suspects if s not in taken]
        return taken

    def take_all(self) -> list[Suspect]:
        """Remove and return all."""
        taken, self._suspects = self._suspects, []
        return taken
