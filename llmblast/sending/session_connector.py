"""aiohttp adapted for the session transport: lenient parsing, no stale connections, the progress of each request.

The methods and attributes that are overridden here are not documented API; aiohttp is pinned to a minor version, and
tests fail when it does not call them any more.
"""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from ssl import SSLError
from typing import Any

from aiohttp import ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.tracing import Trace

from llmblast.models import Attempt, Reply
from llmblast.sending.foreign_protocols import explain_first_bytes
from llmblast.sending.lenient_http import ReplyRewriter, UnreadableHttpError
from llmblast.sending.listener import ChannelListener
from llmblast.sending.proxies import Proxy
from llmblast.sending.reply_reader import MAX_HEAD_BYTES
from llmblast.sending.resolving import ProxyingConnector
from llmblast.sending.tls_errors import explain_tls


class EofReportingHandler(ResponseHandler):
    """Report a reset like an orderly end: with the reply if one had begun. aiohttp forgets that after a reset, and a
    request that had reached the server would be mistaken for one on a stale connection.

    `first_data` are the first bytes of the connection, `tls_error` is the reason why TLS ended it.
    """

    first_data = b""
    tls_error: SSLError | None = None

    def data_received(self, data: bytes) -> None:
        if not self.first_data:
            self.first_data = data
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if isinstance(exc, SSLError):
            self.tls_error = exc
        super().connection_lost(None)

    def set_response_params(self, **params: Any) -> None:
        """Have the reply parsed by a `_LenientParser`."""
        early, self._tail = self._tail, b""
        parser: Any = _LenientParser(self, params)
        self._parser = parser
        if early:
            self.data_received(early)

    def new_parser(self, params: dict[str, Any]) -> Any:
        """Return a parser of aiohttp's own."""
        mine = self._parser
        super().set_response_params(**params)
        parser, self._parser = self._parser, mine
        return parser


class _LenientParser:
    """Parse a reply with aiohttp's parser and, if that refuses its head, once more rewritten. Then the connection ends.

    A head that was handed to aiohttp cannot be parsed again: chunks of an odd form have to come with it.
    """

    def __init__(self, handler: EofReportingHandler, params: dict[str, Any]) -> None:
        self._handler = handler
        self._params = params
        self._parser = handler.new_parser(params)
        self._rewriter: ReplyRewriter | None = None
        self._head = b""
        self._is_head_done = False

    def __getattr__(self, name: str) -> Any:
        """Take everything but `feed_data` from aiohttp's parser."""
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Return the replies whose heads are whole now, as aiohttp's parser does."""
        if self._rewriter is not None:
            return self._feed_rewritten(data)
        try:
            fed: tuple[Any, bool, bytes] = self._parser.feed_data(data)
        except LineTooLong:
            raise
        except HttpProcessingError:
            if self._is_head_done:
                raise
            self._rewriter = ReplyRewriter()
            self._parser = self._handler.new_parser(self._params)
            self._handler.force_close()
            return self._feed_rewritten(self._head + data)
        if not self._is_head_done:
            self._count_head(data, fed)
        return fed

    def _feed_rewritten(self, data: bytes) -> tuple[Any, bool, bytes]:
        assert self._rewriter is not None
        try:
            fed: tuple[Any, bool, bytes] = self._parser.feed_data(self._rewriter.feed(data))
        except UnreadableHttpError as error:
            raise BadHttpMessage(str(error)) from None
        if not self._is_head_done:
            self._count_head(data, fed)
        return fed

    def _count_head(self, data: bytes, fed: tuple[Any, bool, bytes]) -> None:
        messages = fed[0]
        self._is_head_done = bool(messages) and messages[-1][0].code >= 200
        self._head = b"" if self._is_head_done else self._head + data
        if len(self._head) > MAX_HEAD_BYTES:
            raise LineTooLong(self._head[:100] + b"...", MAX_HEAD_BYTES)


class RequestPhase(Enum):
    """Progress of one request."""

    CONNECTING = "connecting"
    SENT = "sent"
    HEAD_RECEIVED = "head received"

    def __repr__(self) -> str:
        return self.value


@dataclass(slots=True, eq=False, repr=False)
class RequestState:
    """State of one request in its own task. Its timeout is at `deadline_s` on the loop's clock."""

    deadline_s: float
    attempt: Attempt
    listener: ChannelListener
    task: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)
    phase: RequestPhase = RequestPhase.CONNECTING
    is_late: bool = False
    is_reused: bool = False
    handler: ResponseHandler | None = None
    head: Reply = field(default_factory=Reply)
    """Status and headers, once they have come."""
    chunks: list[bytes] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<RequestState: {self.phase!r}, {'reused' if self.is_reused else 'new'} connection>"

    @property
    def was_sent(self) -> bool:
        """Return whether the request may have reached the server."""
        return self.phase is not RequestPhase.CONNECTING

    @property
    def has_head(self) -> bool:
        """Return whether the head of the reply has come."""
        return self.phase is RequestPhase.HEAD_RECEIVED

    def explain_first_use(self) -> str:
        """Return why a new connection carried no HTTP, for a person; empty where that is not known."""
        handler = self.handler
        if self.is_reused or not isinstance(handler, EofReportingHandler):
            return ""
        if handler.tls_error is not None and not handler.first_data:
            return f"no TLS connection: {explain_tls(handler.tls_error)}"
        return explain_first_bytes(handler.first_data)

    def time_out(self) -> None:
        """Cancel the task of the request."""
        if self.task is not None and not self.is_late:
            self.is_late = True
            self.task.cancel()

    def timed_out(self) -> bool:
        """Return whether only the timeout has cancelled the task."""
        return self.is_late and self.task is not None and self.task.uncancel() == 0


request_state: ContextVar[RequestState] = ContextVar("request_state")
"""The state of the present task's request. aiohttp's tracing would take a third of the whole exchange."""


class StaleCheckingConnector(ProxyingConnector):
    """Never reuse a connection on which the server sent data while it was idle: RFC 9112 section 9.2.

    aiohttp checks that when a connection is given back, not when it is taken out again, and would hand those bytes
    to the next request as its reply.
    """

    def __init__(self, socks: Proxy | None = None, unix_socket: str | None = None, **options: Any) -> None:
        super().__init__(socks, unix_socket, **options)
        handler: type[ResponseHandler] = EofReportingHandler
        self._factory = partial(handler, loop=self._loop)

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """Connect, let the request wait for its turn to leave, and record in its state that it was sent."""
        connection = await super().connect(req, traces, timeout)
        state = request_state.get()
        state.handler = connection.protocol
        if (leave := state.listener.leave(state.attempt, not state.is_reused)) is not None:
            try:
                await leave
            except BaseException:
                connection.close()
                raise
        if connection.transport is not None and not connection.transport.is_closing():
            state.phase = RequestPhase.SENT
            if not state.is_reused:
                state.listener.on_delayed_send(state.attempt, True)
        return connection

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                break
            connection.close()
        request_state.get().is_reused = connection is not None
        return connection
