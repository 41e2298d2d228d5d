"""Exchange: the lean HTTP/1.1 protocol of one kept-alive connection, one request at a time.

httptools (llhttp) parses; there is no task, no future, no timer and no stream between the socket and whoever waits for
the reply: 8 us of CPU where a `ClientSession.post` takes 70. Message framing follows RFC 9112 section 6.3, connection
reuse section 9.3.
"""

import asyncio
from collections.abc import Callable
from math import inf
from ssl import SSLError
from typing import Protocol

import httptools

from llmblast.records import Attempt, Cause, Reply
from llmblast.sending.codings import without_coding
from llmblast.sending.complete_bodies import MAY_BE_COMPLETE, is_complete
from llmblast.sending.foreign_protocols import explain_first_bytes, hint_at_tls
from llmblast.sending.lenient_http import MAX_HEAD_BYTES, MAX_HEADERS, ReplyRewriter, UnreadableHttpError
from llmblast.sending.reply_budget import UNCOUNTED_BYTES, reply_budget
from llmblast.sending.tls import explain_tls

_FRAMING = _LENGTH, _CODING = b"content-length", b"transfer-encoding"
MAX_REPLY_BYTES = 64 * 1024 * 1024
_MAX_REREAD_BYTES = 64 * 1024
"""So much of a reply can be read a second time, leniently, once its head is known."""
JOINED_WRITE_BYTES = 64 * 1024
"""Longer bodies are handed to the kernel beside their head instead of copied behind it."""

Done = Callable[[Attempt, Reply], None]
"""Takes an attempt and its reply."""


class _Parser(Protocol):
    """What an exchange uses of httptools."""

    def feed_data(self, data: bytes, /) -> None: ...

    def get_status_code(self) -> int: ...

    def should_keep_alive(self) -> bool: ...


class Exchange(asyncio.Protocol):
    """Sends one request after the other over a connection that is already open and secured.

    `on_lost` is called once when the connection is gone, `on_free` whenever it can take another request. `deadline_s`
    is when the owner's sweep cuts the present exchange off; it becomes infinity at its end, and from then on is the
    owner's, to let idle connections age.
    """

    __slots__ = (
        "_body_is_large",
        "_budget",
        "_chunks",
        "_done",
        "_headers",
        "_headers_done",
        "_max_reply_bytes",
        "_on_lost",
        "_packets",
        "_parser",
        "_received_bytes",
        "_reply",
        "_transport",
        "_uncounted_bytes",
        "_used",
        "attempt",
        "deadline_s",
        "foreign",
        "is_kept",
        "on_body",
        "on_free",
        "on_header",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        on_lost: Callable[["Exchange", BaseException | None], None],
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.is_kept = True
        """Whether the connection will take another request, or the end of the present one."""
        self.attempt: Attempt | None = None
        """The attempt under way, if there is one."""
        self.foreign = ""
        """What the server speaks instead of HTTP, in words, where it greeted before anything was sent."""
        self.deadline_s = inf
        self.on_free: Callable[[Exchange], None] = lambda exchange: None
        self._transport = transport
        self._on_lost = on_lost
        self._max_reply_bytes = max_reply_bytes
        self._uncounted_bytes = min(UNCOUNTED_BYTES, max_reply_bytes)
        self._budget = reply_budget()
        self._done: Done | None = None
        self._body_is_large = False
        self._used = False
        self._received_bytes = 0
        self._reply: Reply | None = None
        self._headers_done = False
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        # What the parser calls for every header and every piece of a body costs no line of Python. Of a header that is
        # repeated the first one counts.
        self.on_header = self._headers.setdefault
        self.on_body = self._chunks.append
        self._packets: list[bytes] = []
        """What has come of a reply that is not whole yet, for a second reading."""
        self._parser: _Parser = _new_parser(self)
        transport.set_protocol(self)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self.attempt is None

    def send(self, head: bytes, body: bytes | memoryview, deadline_s: float, attempt: Attempt, done: Done) -> None:
        """Writes the request, all of it in `head` and `body`; `done` is called once with it and its reply, whatever
        happens to the connection.
        """
        self._received_bytes = 0
        self.deadline_s = deadline_s
        self.attempt = attempt
        self._done = done
        if len(body) > JOINED_WRITE_BYTES:
            self._body_is_large = True
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    def cut_off(self, cause: Cause, detail: str) -> None:
        """Ends the exchange and the connection now."""
        self.is_kept = False
        self._transport.abort()
        self._finish(self._broken_off(cause, detail))

    def abandon(self) -> None:
        """Ends the exchange and the connection now, and tells nobody."""
        self._done = None
        self.cut_off(Cause.BROKEN, "abandoned")

    def close(self) -> None:
        """Closes the connection; an exchange under way ends as broken."""
        if self.attempt is not None:
            self.cut_off(Cause.BROKEN, "llmblast closed the connection before the reply was complete")
            return
        self.is_kept = False
        self._close_transport()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which calls the `on_...` methods; a reply is handed over when they are through."""
        if self.attempt is None:
            if not self._used:
                self.foreign = explain_first_bytes(data)
            self.close()  # nobody asked: the server says good-bye, or speaks out of turn
            return
        self._received_bytes += len(data)  # as received, so that endless headers and interim replies count too
        if self._received_bytes > self._uncounted_bytes and not self._may_grow(len(data)):
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a defect of ours, not the server's
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnreadableHttpError) as error:
            self.is_kept = False
            if self._reply is None and (reason := self._read_leniently(data, error)) is not None:
                self.cut_off(*self._explain(reason, data))
                return
        if (reply := self._reply) is not None:
            self._finish(reply)
        elif self._has_too_much_head():
            self.cut_off(Cause.TOO_LARGE, "the headers of the reply are too large and were cut off")
        else:
            self._keep_for_rereading(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends an exchange under way: complete if the connection's end was to mark the reply's end, else broken."""
        self.is_kept = False
        if self.attempt is not None:
            if self._headers_done and exc is None and self._ends_with_the_connection():
                self._finish(self._whole(self._parser.get_status_code()))
            elif self._used and not self._received_bytes:
                self._finish(Reply(cause=Cause.STALE, detail="the server had closed the keep-alive connection"))
            elif isinstance(exc, SSLError) and not self._used and not self._received_bytes:
                self._finish(Reply(cause=Cause.NOT_SENT, detail=f"no TLS connection: {explain_tls(exc)}"))
            else:
                how_far = "in the middle of the reply" if self._received_bytes else "before a reply came"
                self._finish(self._broken_off(Cause.BROKEN, f"the connection broke {how_far}{self._hint()}"))
        del self._parser  # it holds this object, which would live on until a collection with all that it received
        self._on_lost(self, exc)

    def pause(self) -> None:
        """Read no more of the reply: the budget of all replies is full."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def on_message_begin(self) -> None:
        """A reply's first byte. RFC 9112 section 9.2: what follows a whole reply unasked answers no request of ours."""
        if self._reply is not None:
            self.is_kept = False

    def on_headers_complete(self) -> None:
        """The status line and the headers are known."""
        self._headers_done = True

    def on_message_complete(self) -> None:
        """The reply is whole; an interim one (100 Continue, 103) only precedes it."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers_done = False
            self._headers.clear()
        elif self._reply is None:
            self.is_kept = self.is_kept and self._parser.should_keep_alive()
            self._reply = self._whole(status)

    def _may_grow(self, size_bytes: int) -> bool:
        """Count what has come of a long reply, which may pause it; cut it off where it is too long."""
        if self._received_bytes > self._max_reply_bytes:
            self.cut_off(Cause.TOO_LARGE, f"the reply is larger than {self._max_reply_bytes} bytes and was cut off")
            return False
        is_first = self._received_bytes - size_bytes <= self._uncounted_bytes
        self._budget.grow(self, self._received_bytes if is_first else size_bytes)
        return True

    def _keep_for_rereading(self, data: bytes) -> None:
        if self._received_bytes <= _MAX_REREAD_BYTES or not self._headers_done:
            self._packets.append(data)
        else:
            self._packets.clear()

    def _read_leniently(self, data: bytes, error: Exception) -> Exception | None:
        """Read the reply once more from its first byte, rewritten. Return why it cannot be read, or None."""
        received = b"".join((*self._packets, data))
        if not isinstance(error, httptools.HttpParserError) or len(received) < self._received_bytes:
            return error
        self._headers.clear()
        self._chunks.clear()
        self._packets.clear()
        self._headers_done = False
        self._parser = _RewritingParser(self)
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserCallbackError as defect:
            raise defect.__context__ or defect from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnreadableHttpError) as reason:
            return reason if self._reply is None else None
        return None

    def _whole(self, status: int) -> Reply:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return without_coding(Reply(status, self._headers.copy(), body), self._max_reply_bytes)

    def _broken_off(self, cause: Cause, detail: str) -> Reply:
        """Return the reply where only its framing has no end, else the cause."""
        if self._chunks and self._headers_done and cause in MAY_BE_COMPLETE and self._done is not None:
            reply = self._whole(self._parser.get_status_code())
            if is_complete(reply):
                return reply
        return Reply(cause=cause, detail=detail)

    def _finish(self, reply: Reply) -> None:
        attempt, done = self.attempt, self._done
        self.attempt = self._done = self._reply = None
        if self._received_bytes > self._uncounted_bytes:
            self._budget.release(self)
        self._headers.clear()
        self._packets.clear()
        self._chunks.clear()  # an idle connection keeps no body alive
        self._headers_done = False
        self._used = True
        self.deadline_s = inf
        if self._body_is_large:
            self._body_is_large = False
            if self._is_writing():
                self.is_kept = False  # answered before it was all sent: the rest would go ahead of the next request
        if self.is_kept:
            self.on_free(self)
        else:
            self._close_transport()
        if done is not None and attempt is not None:
            done(attempt, reply)

    def _close_transport(self) -> None:
        if self._transport.is_closing():
            return
        if self._is_writing():
            self._transport.abort()  # a peer that reads no more would never let it end
        else:
            self._transport.close()

    def _is_writing(self) -> bool:
        """Whether a part of the request has not left yet, even if its reply came."""
        return self._transport.get_write_buffer_size() > 0

    def _explain(self, error: Exception, data: bytes) -> tuple[Cause, str]:
        if isinstance(error, httptools.HttpParserUpgrade):
            return Cause.BROKEN, "the server switched to another protocol without a request for it"
        if not self._used and self._received_bytes == len(data) and (foreign := explain_first_bytes(data)):
            return Cause.NOT_SENT, foreign
        return Cause.BROKEN, f"the reply is not HTTP/1.1: {error}"

    def _hint(self) -> str:
        is_plain_and_new = not (self._used or self._received_bytes or self._transport.get_extra_info("sslcontext"))
        peer = self._transport.get_extra_info("peername") if is_plain_and_new else None
        return hint_at_tls(peer[1]) if isinstance(peer, tuple) else ""

    def _has_too_much_head(self) -> bool:
        is_over = not self._headers_done and self._received_bytes > MAX_HEAD_BYTES
        return is_over or len(self._headers) > MAX_HEADERS

    def _ends_with_the_connection(self) -> bool:
        framing = {name.lower(): value for name, value in self._headers.items() if name.lower() in _FRAMING}
        return _LENGTH not in framing and not framing.get(_CODING, b"").lower().rstrip().endswith(b"chunked")


class _RewritingParser:
    """Parses one reply that the strict parser has refused. Its connection ends with it."""

    def __init__(self, exchange: Exchange) -> None:
        self._rewriter = ReplyRewriter()
        self._parser = _new_parser(exchange)

    def feed_data(self, data: bytes, /) -> None:
        self._parser.feed_data(self._rewriter.feed(data))

    def get_status_code(self) -> int:
        return self._parser.get_status_code()

    def should_keep_alive(self) -> bool:
        return False


def _new_parser(exchange: Exchange) -> _Parser:
    parser = httptools.HttpResponseParser(exchange)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
    return parser
