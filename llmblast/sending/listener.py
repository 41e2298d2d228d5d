"""Listener: what a channel asks of the run while it sends, handed to it with each send."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from llmblast.models import Attempt, Reply

Leave = Callable[[Attempt, bool], asyncio.Future[None] | None]
"""Takes an attempt, and whether its connection had to be opened. Returns a future that ends when it may leave; None:
now."""


@dataclass(frozen=True, slots=True)
class ChannelListener:
    """Callbacks of one endpoint's sends. By default every request leaves at once, and nothing is listened to.

    `on_reply` gets the reply to what `Channel.start` has sent. `leave` is asked once there is a connection.
    `on_delayed_send` hears that a request leaves later than it was admitted, and whether its connection had to be
    opened.
    """

    on_reply: Callable[[Attempt, Reply], None] = lambda attempt, reply: None
    leave: Leave = lambda attempt, is_fresh: None
    on_delayed_send: Callable[[Attempt, bool], None] = lambda attempt, is_fresh: None


NO_LISTENER = ChannelListener()
