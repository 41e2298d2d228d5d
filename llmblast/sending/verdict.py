"""Verdict: the meaning of one reply without an answer, for its request, its endpoint and its limits."""

from dataclasses import dataclass
from enum import Enum, auto


class Action(Enum):
    """The next step for the request."""

    FAIL = auto()
    """Record it as failed."""
    RETRY = auto()
    """Send it again: another attempt may succeed. This one counts."""
    RESEND = auto()
    """Send it again at once: no server has read it."""
    NOT_SENT = auto()
    """Send it to another endpoint or later: there is no connection."""
    PUSH_BACK = auto()
    """Send it to another endpoint or later: a rate limit or an overload, in any form."""
    REFUSED = auto()
    """Find out from other replies who is to blame for a permanent refusal: this reply alone does not show it."""


class Blame(Enum):
    """Cause of a refusal by its words and codes."""

    LINE = auto()
    ENDPOINT = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class Verdict:
    """Meaning of a reply without an answer.

    `message` and `code` are for the error record, `wait_s` is the wait that the provider names in a header or in the
    body.
    """

    action: Action
    message: str = ""
    code: str = ""
    wait_s: float | None = None
    transient: bool = False
    """For FAIL and REFUSED, and for a RETRY that is given up: another run may succeed."""
    keeps_body: bool = False
    was_used: bool = False
    """The provider may have worked on the request: its tokens count, and it may be billed."""
    blame: Blame = Blame.UNKNOWN
    """Breaks a tie where other lines' replies do not show the cause of a REFUSED."""
    is_not_found: bool = False
    """The reply says that nothing is there rather than that this line is wrong; the endpoint's past shows which."""
    signature: str = ""
    """A text that is equal for equal refusals of different lines; empty without an HTTP error."""
    never_fits: bool = False
    """The provider's own numbers say that this request never fits."""
