"""The session transport: the client of aiohttp itself, slower than the lean exchange and independent of it."""

import asyncio
from collections.abc import Iterable, Mapping
from io import BytesIO

from aiohttp import (
    BytesPayload,
    ClientError,
    ClientOSError,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    ServerDisconnectedError,
    StreamReader,
)
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from llmblast.models import Attempt, Cause, Reply
from llmblast.sending.codings import without_coding
from llmblast.sending.complete_bodies import is_complete
from llmblast.sending.connect_errors import place_of
from llmblast.sending.exchange import MAX_REPLY_BYTES
from llmblast.sending.fd_waiters import FdWaiters, is_out_of_files
from llmblast.sending.foreign_protocols import hint_at_tls
from llmblast.sending.listener import NO_LISTENER, ChannelListener
from llmblast.sending.proxies import forwarder
from llmblast.sending.proxy_replies import without_proxy_refusal
from llmblast.sending.reply_budget import UNCOUNTED_BYTES, reply_budget
from llmblast.sending.reply_reader import MAX_HEAD_BYTES, MAX_HEADERS
from llmblast.sending.resolving import (
    headers_for_proxy,
    new_tcp_connector,
    not_sent,
    url_of_http_proxy,
)
from llmblast.sending.session_connector import RequestPhase, RequestState, StaleCheckingConnector, request_state
from llmblast.sending.target import Target
from llmblast.sending.unix_sockets import not_sent as unix_socket_not_sent

_MAX_BYTES_PAYLOAD_BYTES = 512 * 1024
"""Longer bodies go as a file: aiohttp writes that in pieces, and warns of bytes beyond 1 MiB."""
_READ_AHEAD_BYTES = 16 * 1024
_UNREAD_BYTES = 512 * 1024
"""Rough size of the unread part of a paused reply: aiohttp reads on until that is twice `_READ_AHEAD_BYTES`, in packets
of up to 256 KiB.
"""


class SessionChannel:
    """Sends to one endpoint through a `ClientSession`."""

    def __init__(
        self, target: Target, timeout_s: float, connect_timeout_s: float, max_reply_bytes: int = MAX_REPLY_BYTES
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._has_replied = False
        """A whole HTTP reply has come from the server: what is no HTTP later is a broken reply, which may be billed."""
        self._forwarder = forwarder(target.proxy, target.base)
        self._waiters: FdWaiters[None] = FdWaiters()
        self._under_way: set[RequestState] = set()
        self._urls: dict[str, URL] = {}
        connect_s = min(connect_timeout_s, timeout_s)
        self._session = ClientSession(
            connector=new_tcp_connector(StaleCheckingConnector, target.proxy, target.tls, target.unix_socket),
            timeout=ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s),
            headers=target.headers if target.proxy is None else None,
            auto_decompress=False,
            read_bufsize=_READ_AHEAD_BYTES,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEADERS,
            cookie_jar=DummyCookieJar(),
            proxy=url_of_http_proxy(target.proxy),
        )

    @property
    def is_busy(self) -> bool:
        """Return False: no request is ever started without a task."""
        return False

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        """Return False: aiohttp needs a task for each request."""
        return False

    def set_key(self, key: str) -> None:
        """Send later requests with this API key; those under way keep theirs: aiohttp copies the headers for each."""
        self._target = self._target.with_key(key)
        if self._target.proxy is None:
            self._session.headers.clear()
            self._session.headers.update(self._target.headers)

    def _headers(self) -> tuple[Mapping[str, str] | None, Mapping[str, str] | None]:
        """Return the headers of a request and of a CONNECT. Those of the session would go to the proxy as well: aiohttp
        makes `Proxy-Authorization` of their `Authorization`.
        """
        proxy, headers = self._target.proxy, self._target.headers
        if proxy is None:
            return None, None
        for_proxy = headers_for_proxy(proxy)
        return (headers, for_proxy) if self._forwarder is None else ({**headers, **(for_proxy or {})}, None)

    def abandon(self) -> None:
        """Do nothing: no request is ever started without a task."""

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        """Make one `POST` and read its reply whole."""
        rendering = self._target.rendering_of(attempt.request)
        url = self._urls.get(rendering.path)
        if url is None:
            url = URL(self._target.url_of(rendering.path), encoded=self._target.signer is not None)
            self._urls[rendering.path] = url
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        if self._waiters.waiting:
            await self._waiters.wait(again=False)
        while True:
            state = RequestState(clock() + self._timeout_s, attempt, listener)
            request_state.set(state)
            self._under_way.add(state)
            try:
                body = self._target.body_of(rendering, attempt.flex_at)
                reply = await self._post(url, body, state, attempt.request.headers)
            except asyncio.CancelledError:
                if not state.timed_out():
                    raise
                reply = self._explain(url, TimeoutError(), state)
            except (ClientError, TimeoutError, OSError, UnicodeError) as error:
                self._under_way.discard(state)
                await asyncio.sleep(0)  # uvloop refuses to write before it reports why the connection is lost
                reply = None
                if state.was_sent or not is_out_of_files(error) or not self._may_wait(begun_s):
                    reply = self._explain(url, error, state)
            finally:
                self._under_way.discard(state)
                state.task = None  # its context refers to the state: a cycle for the garbage collector
            if reply is not None:
                self._waiters.wake_next()
                return reply
            await self._waiters.wait(again=True)

    def _may_wait(self, begun_s: float) -> bool:
        """Return whether a file may become free: another request will end, or the timeout has not passed yet."""
        return len(self._under_way) > 1 or asyncio.get_running_loop().time() < begun_s + self._timeout_s

    async def _post(self, url: URL, body: bytes, state: RequestState, own: Mapping[str, str] | None) -> Reply:
        data = BytesPayload(body) if len(body) <= _MAX_BYTES_PAYLOAD_BYTES else BytesIO(body)
        headers, proxy_headers = self._headers()
        if own is not None:
            names = {name.lower() for name in own}
            headers = {**{name: value for name, value in (headers or {}).items() if name.lower() not in names}, **own}
        if self._target.signer is not None:
            headers = {**(headers or {}), **self._target.signer.sign(str(url), body)}
        async with self._session.post(
            url, data=data, headers=headers, allow_redirects=False, proxy_headers=proxy_headers
        ) as response:
            state.phase = RequestPhase.HEAD_RECEIVED
            reply = state.head = Reply(response.status, _first_of_each(response.raw_headers))
            content = await _read_capped(response.content, self._max_reply_bytes, state.chunks)
            if content is None:
                detail = f"the reply is larger than {self._max_reply_bytes} bytes and was cut off"
                return Reply(cause=Cause.TOO_LARGE, detail=detail)
            self._has_replied = True
            reply.body = content
            if self._forwarder is not None:
                reply = without_proxy_refusal(reply, self._forwarder, place_of(url.host, url.port))
            return without_coding(reply, self._max_reply_bytes)

    def _explain(self, url: URL, error: Exception, state: RequestState) -> Reply:
        if state.is_reused and not state.has_head and _is_silent_end(error):
            return Reply(cause=Cause.STALE, detail="the server had closed the keep-alive connection")
        if not state.was_sent and self._target.unix_socket is not None:
            return unix_socket_not_sent(self._target.unix_socket, error)
        if not state.was_sent:
            return not_sent(url, error, self._target.proxy)
        foreign = "" if self._has_replied else state.explain_first_use()
        if foreign:
            return Reply(cause=Cause.NOT_SENT, detail=foreign)
        reply = state.head
        if state.chunks:
            reply.body = b"".join(state.chunks)
            reply = without_coding(reply, self._max_reply_bytes)
        return reply if state.chunks and is_complete(reply) else self._explain_reply(url, error, state)

    def _explain_reply(self, url: URL, error: Exception, state: RequestState) -> Reply:
        if isinstance(error, TimeoutError):
            return Reply(cause=Cause.TIMED_OUT, detail=f"no complete reply within {self._timeout_s:g} s")
        if _has_too_much_head(error):
            return Reply(cause=Cause.TOO_LARGE, detail="the headers of the reply are too large and were cut off")
        if isinstance(error, ClientResponseError):
            what = error.message.strip().partition("\n")[0].rstrip(":")
            return Reply(cause=Cause.BROKEN, detail=f"the reply is not HTTP/1.1: {what}")
        how_far = (
            "before a reply came" if _is_silent_end(error) and not state.has_head else "in the middle of the reply"
        )
        hint = hint_at_tls(url.port) if url.scheme == "http" and not (state.is_reused or state.has_head) else ""
        return Reply(cause=Cause.BROKEN, detail=f"the connection broke {how_far}{hint}")

    async def warm_up(self, connections: int = 1) -> Reply | None:
        """Do nothing: aiohttp opens a connection when a request needs one."""
        return None

    def sweep(self, now: float) -> None:
        """Time out late requests, without a timer for each."""
        for state in [state for state in self._under_way if state.deadline_s <= now]:
            state.time_out()
        self._waiters.wake_next()

    def close_idle(self) -> None:
        """Do nothing: aiohttp closes idle connections by its own timer."""

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _has_too_much_head(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, LineTooLong):
        error = error.__cause__
    return error is not None


def _is_silent_end(error: Exception) -> bool:
    """Return whether the connection ended before one byte came back: else aiohttp hands on the head so far."""
    if isinstance(error, ServerDisconnectedError):
        return isinstance(error.message, str)
    return isinstance(error, ClientOSError)


def _first_of_each(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    first: dict[bytes, bytes] = {}
    for name, value in headers:
        first.setdefault(name, value)
    return first


class _CountedReply:
    """Counts a long reply that is read in a task, which waits while the budget of all replies has paused it."""

    def __init__(self) -> None:
        self._budget = reply_budget()
        self._counted_bytes = -_UNREAD_BYTES
        self._resumed: asyncio.Future[None] | None = None

    def grow_to(self, size_bytes: int) -> None:
        """Count the bytes that have come since the last call."""
        self._budget.grow(self, size_bytes - self._counted_bytes)
        self._counted_bytes = size_bytes

    def end(self) -> None:
        """Give back the bytes of the reply."""
        self._budget.release(self)

    def pause(self) -> None:
        self._resumed = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None

    async def wait(self) -> None:
        """Wait until the reply may be read on."""
        if self._resumed is not None:
            await self._resumed


async def _read_capped(content: StreamReader, max_bytes: int, chunks: list[bytes]) -> bytes | None:
    """Return the body, which is collected in `chunks`; None for one that is too large."""
    size = 0
    counted: _CountedReply | None = None
    try:
        async for chunk in content.iter_any():
            size += len(chunk)
            if size > max_bytes:
                return None
            chunks.append(chunk)
            if size > UNCOUNTED_BYTES:
                counted = counted or _CountedReply()
                counted.grow_to(size)
                await counted.wait()
    except BaseException:
        chunks += getattr(content, "_buffer", ())  # bytes that aiohttp does not hand out after an error
        raise
    finally:
        if counted is not None:
            counted.end()
    return b"".join(chunks)
