"""Outcomes of one send, as its endpoint hears of them, and what an endpoint finds in one."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Kind(Enum):
    """How a send ended."""

    ANSWERED = auto()
    RATE_LIMITED = auto()
    """A rate limit or an overload rejected it."""
    REFUSED = auto()
    """The line was refused for good, be it the line's fault or the endpoint's."""
    FAILED = auto()
    """It failed in a way that another send may not."""
    UNREACHABLE = auto()
    """No connection could be opened."""
    INCONCLUSIVE = auto()
    """It ended in a way that says nothing about the endpoint."""


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """How one send ended. Use `ANSWERED` for an answer: nothing is made for it."""

    kind: Kind
    error: str = ""
    """The endpoint's last error from now on, in words; empty where it is none of the endpoint's."""
    has_reply: bool = True
    """An HTTP reply came: the endpoint is reachable."""
    wait_s: float | None = None
    """Seconds that a rate-limit reply asks to wait."""
    signature: str = ""
    """The same for the same refusal of different lines."""
    is_blamed: bool = False
    """The words of a refusal blame the account or the key."""
    is_first: bool = True
    """The line had not failed at this endpoint before."""


ANSWERED: Final = SendOutcome(Kind.ANSWERED)
CANCELLED = SendOutcome(Kind.INCONCLUSIVE, has_reply=False)


class Finding(Enum):
    """Conclusion of an endpoint from an outcome."""

    LINES_TO_BLAME = auto()
    """Refused lines, not the endpoint or their model, are to blame for their refusals."""
    TOO_MANY_IN_FLIGHT = auto()
    """A rate-limit reply is explained by the number of requests in flight: waiting is of no use."""
