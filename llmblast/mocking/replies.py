"""Replies: an HTTP reply, or the exact bytes, pauses and ends that go over the wire."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Ending(Enum):
    """Way in which the server ends a connection."""

    CLOSE = auto()
    """Written bytes still go out."""
    RESET = auto()
    """A TCP reset; what was written may be lost."""


Step = bytes | float | Ending
"""Bytes are written as they are, a float is a pause in seconds, an ending is the last step."""


@dataclass(slots=True, eq=False)
class ScriptedReply:
    """Reply to one request, after `delay_s` seconds; `break_connection` closes it without an answer.

    With `events` the body is streamed: they are its parts and the pauses between them.
    With `steps` exactly these go over the wire: then `status` and `is_whole`, whether a client that keeps to HTTP has a
    whole reply in the end, are only what the ledger says of them. `down_s` closes the listener and every connection
    for so long.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    break_connection: bool = False
    steps: Iterable[Step] | None = None
    events: Iterable[bytes | float] | None = None
    is_whole: bool = True
    down_s: float = 0.0
    text: str | None = None
    """The answer that a client finds in the reply; None where there is none, or none that it can read."""


@dataclass(slots=True, eq=False)
class Decision:
    """A reply, the output that is charged when it is complete, and its fault.

    `is_ours`: the provider adds its headers, such as its limits, to the reply.
    """

    reply: ScriptedReply
    output_tokens: int = 0
    is_ours: bool = True
    fault: str | None = None
    prefixes: tuple[bytes, ...] = ()
    """Beginnings of the prompt that the prompt cache keeps once the reply goes out."""
