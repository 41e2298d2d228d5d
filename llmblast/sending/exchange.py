"""Exchange: the lean HTTP/1.1 client of one keep-alive connection, one request at a time.

There is no task, no future, no timer and no stream between the socket and the caller that waits for the reply: 8 us of
CPU where a `ClientSession.post` takes 70. Connections are reused by RFC 9112 section 9.3. `ReplyReader` has the state
of the reply, `Exchange` that of the request and of the connection.
"""

import asyncio
from collections.abc import Callable
from math import inf
from ssl import SSLError
from typing import Final, Protocol

from httptools import HttpParserUpgrade

from llmblast.models import Attempt, Cause, Reply
from llmblast.sending.complete_bodies import MAY_BE_COMPLETE
from llmblast.sending.foreign_protocols import explain_first_bytes, hint_at_tls
from llmblast.sending.reply_budget import UNCOUNTED_BYTES, reply_budget
from llmblast.sending.reply_reader import ReplyReader

MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
MAX_JOINED_BYTES: Final = 64 * 1024
"""Longer bodies are written beside their head instead of copied behind it."""

Done = Callable[[Attempt, Reply], None]
"""Takes an attempt and its reply."""


class ExchangeOwner(Protocol):
    """The pool to which exchanges belong."""

    has_replied: bool
    """A whole HTTP reply has come from the server: what is no HTTP later is a broken reply, which may be billed."""

    def on_free(self, exchange: "Exchange") -> None:
        """Take back an exchange that can send another request."""

    def on_lost(self, exchange: "Exchange") -> None:
        """Forget an exchange whose connection is gone."""


class Exchange:
    """Send one request after the other over a connection that is open and secured.

    `deadline_s` is the time at which the owner's sweep cuts off the present request. It is infinite once the reply is
    complete; from then on the owner may set it, to let idle connections age. `release` is called with the error, if
    any, when the connection is lost.
    """

    __slots__ = (
        "_body_is_large",
        "_budget",
        "_done",
        "_owner",
        "_reader",
        "_release",
        "_transport",
        "_uncounted_bytes",
        "_was_used",
        "attempt",
        "deadline_s",
        "foreign",
        "is_kept",
        "max_reply_bytes",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: ExchangeOwner,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        release: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        self.is_kept = True
        """Whether the connection can take another request, or the rest of the present one."""
        self.attempt: Attempt | None = None
        """The attempt under way, if there is one."""
        self.foreign = ""
        """The protocol of a server that greeted before a request was sent, in a sentence for a person."""
        self.deadline_s = inf
        self.max_reply_bytes = max_reply_bytes
        self._transport = transport
        self._owner = owner
        self._release = release
        self._uncounted_bytes = min(UNCOUNTED_BYTES, max_reply_bytes)
        self._budget = reply_budget()
        self._reader = ReplyReader(max_reply_bytes)
        self._done: Done | None = None
        self._body_is_large = False
        self._was_used = False
        """Whether a request before the present one has ended on this connection."""
        transport.set_protocol(_ConnectionEvents(self))

    def __repr__(self) -> str:
        states = "reused" if self._was_used else "new", "kept" if self.is_kept else "closing"
        return f"<Exchange: {', '.join(states)}, {'idle' if self.is_idle else repr(self._reader)}>"

    @property
    def is_idle(self) -> bool:
        """Return whether no request is under way."""
        return self.attempt is None

    def send(self, head: bytes, body: bytes | memoryview, deadline_s: float, attempt: Attempt, done: Done) -> None:
        """Write a request, all of it in `head` and `body`. `done` is called once with the attempt and its reply, even
        if the connection breaks.
        """
        self.deadline_s = deadline_s
        self.attempt = attempt
        self._done = done
        if len(body) > MAX_JOINED_BYTES:
            self._body_is_large = True
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    def cut_off(self, cause: Cause, detail: str) -> None:
        """End the request and the connection now."""
        self.is_kept = False
        self._transport.abort()
        self._finish(self._broken_reply(cause, detail))

    def abandon(self) -> None:
        """End the request and the connection now, without a reply."""
        self._done = None
        self.is_kept = False
        self._transport.abort()
        self._finish(Reply(cause=Cause.BROKEN))

    def close(self) -> None:
        """Close the connection; a request under way ends as broken."""
        if self.attempt is not None:
            self.cut_off(Cause.BROKEN, "llmblast closed the connection before the reply was complete")
            return
        self.is_kept = False
        self._close_transport()

    def pause(self) -> None:
        """Stop reading: the budget of all replies is full."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Continue reading."""
        self._transport.resume_reading()

    def on_data(self, data: bytes) -> None:
        """Read more of the reply, and hand it over once it is complete."""
        if self.attempt is None:
            if not self._was_used:
                self.foreign = explain_first_bytes(data)
            self.close()  # no request is under way: the server ends the connection, or speaks out of turn
            return
        reader = self._reader
        reader.received_bytes += len(data)
        if reader.received_bytes > self._uncounted_bytes and not self._may_grow(len(data)):
            return
        if (error := reader.feed(data)) is not None:
            self.cut_off(*self._explain(error, data))
        elif reader.reply is not None:
            self._owner.has_replied = True
            self._finish(reader.reply)
        elif reader.has_too_much_head:
            self.cut_off(Cause.TOO_LARGE, "the headers of the reply are too large and were cut off")

    def on_connection_lost(self, error: BaseException | None) -> None:
        """End a request under way: complete if its reply has no other end than the connection's, else broken."""
        self.is_kept = False
        if self.attempt is not None:
            self._finish(self._reply_at_the_end(error))
        self._reader.close()
        if self._release is not None:
            self._release(error)
        self._owner.on_lost(self)

    def _reply_at_the_end(self, error: BaseException | None) -> Reply:
        reader = self._reader
        if error is None and reader.ends_with_connection:
            return reader.received()
        if reader.received_bytes:
            return self._broken_reply(Cause.BROKEN, "the connection broke in the middle of the reply")
        if self._was_used:
            return Reply(cause=Cause.STALE, detail="the server had closed the keep-alive connection")
        if isinstance(error, SSLError):
            from llmblast.sending.tls_errors import explain_tls  # noqa: PLC0415 -- on errors only

            return Reply(cause=Cause.NOT_SENT, detail=f"no TLS connection: {explain_tls(error)}")
        return Reply(cause=Cause.BROKEN, detail=f"the connection broke before a reply came{self._hint_at_tls()}")

    def _may_grow(self, size_bytes: int) -> bool:
        """Count more bytes of a long reply, which may pause it; cut it off where it is too long."""
        received_bytes = self._reader.received_bytes
        if received_bytes > self.max_reply_bytes:
            self.cut_off(Cause.TOO_LARGE, f"the reply is larger than {self.max_reply_bytes} bytes and was cut off")
            return False
        is_first = received_bytes - size_bytes <= self._uncounted_bytes
        self._budget.grow(self, received_bytes if is_first else size_bytes)
        return True

    def _broken_reply(self, cause: Cause, detail: str) -> Reply:
        """Return the reply where only its framing has no end, else the cause."""
        complete = self._reader.complete_body() if cause in MAY_BE_COMPLETE else None
        return complete or Reply(cause=cause, detail=detail)

    def _finish(self, reply: Reply) -> None:
        """Free the connection or close it, then hand over the reply."""
        attempt, done, reader = self.attempt, self._done, self._reader
        self.attempt = self._done = None
        self.deadline_s = inf
        self._was_used = True
        if not reader.keeps_alive:
            self.is_kept = False
        if reader.received_bytes > self._uncounted_bytes:
            self._budget.release(self)
        reader.reset()
        if self._body_is_large:
            self._body_is_large = False
            if self._is_writing():
                self.is_kept = False  # answered before it was all sent: the rest would precede the next request
        if self.is_kept:
            self._owner.on_free(self)
        else:
            self._close_transport()
        if done is not None and attempt is not None:
            done(attempt, reply)

    def _close_transport(self) -> None:
        if self._transport.is_closing():
            return
        if self._is_writing():
            self._transport.abort()  # a peer that reads no more would keep it open for ever
        else:
            self._transport.close()

    def _is_writing(self) -> bool:
        """Return whether a part of the request has not left yet, even if its reply came."""
        return self._transport.get_write_buffer_size() > 0

    def _explain(self, error: Exception, data: bytes) -> tuple[Cause, str]:
        if isinstance(error, HttpParserUpgrade):
            return Cause.BROKEN, "the server switched to another protocol without a request for it"
        is_first = not (self._was_used or self._owner.has_replied) and self._reader.received_bytes == len(data)
        if is_first and (foreign := explain_first_bytes(data)):
            return Cause.NOT_SENT, foreign
        return Cause.BROKEN, f"the reply is not HTTP/1.1: {error}"

    def _hint_at_tls(self) -> str:
        """Return a hint for a new connection that was closed, where it has no TLS."""
        peer = None if self._transport.get_extra_info("sslcontext") else self._transport.get_extra_info("peername")
        return hint_at_tls(peer[1]) if isinstance(peer, tuple) else ""


class _ConnectionEvents(asyncio.Protocol):
    """Pass the events of a connection to its exchange: its slots are methods of the exchange, which saves a call."""

    __slots__ = ("connection_lost", "data_received")

    data_received: Callable[[bytes], None]  # type: ignore[assignment] # a slot instead of a method
    connection_lost: Callable[[BaseException | None], None]  # type: ignore[assignment] # a slot instead of a method

    def __init__(self, exchange: Exchange) -> None:
        self.data_received = exchange.on_data
        self.connection_lost = exchange.on_connection_lost
