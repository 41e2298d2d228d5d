"""Channels: one endpoint's way out, and the table of transports.

A channel never raises for a failure of the network: that is a Reply too. When its caller is cancelled, the
connection is closed, since a half-read reply would be taken for the next one's.
"""

from collections.abc import Callable
from typing import Protocol

from llmblast.models import Attempt, Reply
from llmblast.sending.exchange import MAX_REPLY_BYTES
from llmblast.sending.lean import LeanChannel
from llmblast.sending.listener import NO_LISTENER, ChannelListener
from llmblast.sending.target import Target


class Channel(Protocol):
    """Sends to one endpoint, in one of two ways. `start` sends at once where a connection is at hand, and the
    listener gets the reply: no task is needed. Where it is False, `send` has to be awaited, which may open one.

    `send` asks `listener.leave` when it has a connection, and waits for the future that it returns, if any, before it
    writes. `is_busy` says whether a request that was started has no reply yet. `abandon` ends those that were started,
    without a reply. `warm_up` may open connections ahead, and returns the Reply that says why there is none; `sweep`
    ends requests that have run out of time, some times a second. `close_idle` closes the connections without a request,
    once none is expected.
    `set_key` replaces the API key in the headers of later requests; requests under way keep theirs.
    """

    @property
    def is_busy(self) -> bool: ...

    async def warm_up(self, connections: int = 1) -> Reply | None: ...

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool: ...

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply: ...

    def set_key(self, key: str) -> None: ...

    def abandon(self) -> None: ...

    def sweep(self, now: float) -> None: ...

    def close_idle(self) -> None: ...

    async def close(self) -> None: ...


OpenChannel = Callable[[Target, float, float], Channel]
"""(target, timeout_s, connect_timeout_s) -> channel; called on the running loop."""


def _open_session(
    target: Target, timeout_s: float, connect_timeout_s: float, max_reply_bytes: int = MAX_REPLY_BYTES
) -> Channel:
    from llmblast.sending.session import SessionChannel  # noqa: PLC0415 -- aiohttp, which most runs do without

    return SessionChannel(target, timeout_s, connect_timeout_s, max_reply_bytes)


TRANSPORTS: dict[str, OpenChannel] = {"lean": LeanChannel, "session": _open_session}
