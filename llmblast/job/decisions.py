"""Decisions: what follows from a reply for the run, decided by `ResponseHandler` and carried out by `Engine`.

`DONE` is what follows from an answer: its record is with the sink, and nothing else is to be done or made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmblast.errors import ExitCode
from llmblast.models import Attempt
from llmblast.scheduling import Endpoint


@dataclass(frozen=True, slots=True)
class Retry:
    """Queue the request again. What has failed needs the retry budget, too."""

    attempt: Attempt
    due_s: float
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class SendNext:
    """Queue a new request for a line whose last answer did not fit, before all that were read."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run: send nothing more."""

    exit_code: ExitCode
    reason: str


@dataclass(frozen=True, slots=True)
class RenewKey:
    """Ask for the endpoint's key again. The endpoint is paused until that has ended."""

    endpoint: Endpoint


Decision = Retry | SendNext | Stop | RenewKey
Decisions = Sequence[Decision]
DONE: Final[Decisions] = ()
