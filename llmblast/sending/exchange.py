"""Exchange: the lean HTTP/1.1 protocol of one kept-alive connection, one request at a time.

httptools (llhttp) parses; there is no task, no timer and no stream between the socket and the reply. One future per
exchange is all that it costs: 10 us of CPU where a `ClientSession.post` takes 70. Message framing follows RFC 9112
section 6.3, connection reuse section 9.3.
"""

import asyncio
from collections.abc import Callable
from math import inf

import httptools

from llmblast.records import Cause, Reply
from llmblast.sending.codings import without_coding

_FRAMING = (b"content-length", b"transfer-encoding")
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_HEAD_BYTES = 256 * 1024
_MOST_HEADERS = 2000
"""A header costs forty times its bytes: those of a reply at its cap would fill gigabytes."""
JOINED_WRITE_BYTES = 64 * 1024
"""Longer bodies are handed to the kernel beside their head instead of copied behind it."""
_TLS_ALERT = b"\x15\x03"


class Exchange(asyncio.Protocol):
    """Sends one request after the other over a connection that is already open and secured.

    `on_lost` is called once when the connection is gone. `deadline_s` is when the owner's sweep cuts the present
    exchange off; it becomes infinity at its end, and from then on is the owner's, to let idle connections age.
    """

    __slots__ = (
        "_chunks",
        "_headers",
        "_headers_done",
        "_keep_alive",
        "_loop",
        "_max_reply_bytes",
        "_on_lost",
        "_parser",
        "_received_bytes",
        "_transport",
        "_used",
        "_waiter",
        "deadline_s",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        on_lost: Callable[["Exchange", BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self._transport = transport
        self._on_lost = on_lost
        self._loop = loop
        self._max_reply_bytes = max_reply_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._used = False
        self._keep_alive = True
        self._received_bytes = 0
        self._chunks: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._headers_done = False
        self.deadline_s = inf
        transport.set_protocol(self)

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent on this connection."""
        return self._keep_alive and self._waiter is None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._waiter is None

    @property
    def is_writing(self) -> bool:
        """Whether a part of the request has not left yet, even if its reply came."""
        return self._transport.get_write_buffer_size() > 0

    def send(self, head: bytes, body: bytes, deadline_s: float) -> asyncio.Future[Reply]:
        """Writes the request; the future's result is the reply, whatever happens to the connection."""
        self._received_bytes = 0
        self._headers_done = False
        self.deadline_s = deadline_s
        self._waiter = waiter = self._loop.create_future()
        if len(body) > JOINED_WRITE_BYTES:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)
        return waiter

    def cut_off(self, cause: Cause, detail: str) -> None:
        """Ends the exchange and the connection now."""
        self._keep_alive = False
        self._transport.abort()
        self._finish(Reply(cause=cause, detail=detail))

    def close(self) -> None:
        """Closes the connection; an exchange under way ends as broken."""
        if self._waiter is not None:
            self.cut_off(Cause.BROKEN, "the connection was closed on our side before the reply was whole")
            return
        self._keep_alive = False
        self._close_transport()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which calls the `on_...` methods below."""
        if self._waiter is None:
            self.close()  # nobody asked: the server says good-bye, or speaks out of turn
            return
        self._received_bytes += len(data)  # as received, so that endless headers and interim replies count too
        if self._received_bytes > self._max_reply_bytes:
            self.cut_off(Cause.TOO_LARGE, f"the reply is larger than {self._max_reply_bytes} bytes and was cut off")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cut_off(Cause.BROKEN, "the server switched to another protocol, which nobody asked for")
        except httptools.HttpParserError as error:
            if data.startswith(_TLS_ALERT) and self._received_bytes == len(data):
                self.cut_off(Cause.NOT_SENT, "the server speaks TLS: its URL has to begin with https://")
            else:
                self.cut_off(Cause.BROKEN, f"the reply is not HTTP/1.1: {error}")
        if self._has_too_much_head():
            self.cut_off(Cause.TOO_LARGE, "the headers of the reply are too large and were cut off")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends an exchange under way: complete if the connection's end was to mark the reply's end, else broken."""
        self._keep_alive = False
        if self._waiter is not None:
            if self._headers_done and exc is None and self._ends_with_the_connection():
                self._complete(self._parser.get_status_code())
            elif self._used and not self._received_bytes:
                self._finish(Reply(cause=Cause.STALE, detail="the server had closed the kept connection"))
            else:
                how_far = "in the middle of the reply" if self._received_bytes else "before a reply came"
                self._finish(Reply(cause=Cause.BROKEN, detail=f"the connection broke {how_far}"))
        del self._parser  # it holds this object, which would live on until a collection with all that it received
        self._on_lost(self, exc)

    def on_message_begin(self) -> None:
        """A reply's first byte. RFC 9112 section 9.2: what follows a whole reply unasked answers no request of ours."""
        self._headers = []
        self._headers_done = False
        if self._waiter is None:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, in the order received; trailers of a chunked reply come last."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The status line and the headers are known."""
        self._headers_done = True

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body, chunked encoding already taken off."""
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """The reply is whole; an interim one (100 Continue, 103) only precedes it."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers_done = False
        elif self._waiter is not None:
            self._keep_alive = self._keep_alive and self._parser.should_keep_alive()
            self._complete(status)

    def _complete(self, status: int) -> None:
        chunks, self._chunks = self._chunks, []  # an idle connection keeps no body alive
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._finish(without_coding(Reply(status, self._headers, body), self._max_reply_bytes))

    def _finish(self, reply: Reply) -> None:
        waiter, self._waiter = self._waiter, None
        self.deadline_s = inf
        self._used = True
        if not self._keep_alive:
            self._close_transport()
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def _close_transport(self) -> None:
        if self.is_writing:
            self._transport.abort()  # a peer that reads no more would never let it end
        else:
            self._transport.close()

    def _has_too_much_head(self) -> bool:
        if self._waiter is None:
            return False
        is_over = not self._headers_done and self._received_bytes > MAX_HEAD_BYTES
        return is_over or len(self._headers) > _MOST_HEADERS

    def _ends_with_the_connection(self) -> bool:
        return not any(name.lower() in _FRAMING for name, _ in self._headers)
