"""Connections for providers that only answer and limit: a plain request without the costs of aiohttp.

A rate of 10,000/s can only be judged by a server that has time left at 10,000/s. So a connection starts here, where a
POST that comes in one piece is read by hand, and goes over to aiohttp for good with the first request that is anything
else: in parts, chunked, compressed, with another method, or one that may ask for a stream. What is answered does not
depend on who reads.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

from llmblast.mocking.cloud_calls import CloudCall
from llmblast.mocking.replies import Decision, ScriptedReply

_MAX_HEAD_BYTES = 4096
_HEAD = re.compile(rb"POST (/[!-~]*) HTTP/1\.1\r\n((?:[!-9;-~]+:[^\r\n]*\r\n)+)\r\n")
_LENGTH = re.compile(rb"^content-length: *(\d{1,9}) *\r$", re.IGNORECASE | re.MULTILINE)
_AUTHORIZATION = re.compile(rb"^authorization: *([^\r\n]*?) *\r$", re.IGNORECASE | re.MULTILINE)
_API_KEY = re.compile(rb"^x-api-key: *([^\r\n]*?) *\r$", re.IGNORECASE | re.MULTILINE)
_ESCAPED_LETTER = re.compile(rb"\\u00[67]")
_NOT_PLAIN = re.compile(
    rb"^(?:transfer-encoding|content-encoding|connection: *close|expect|upgrade|x-goog-|api-key|x-amz-"
    rb"|content-type: *multipart/)",
    re.IGNORECASE | re.MULTILINE,
)
"""Also headers of the clouds, of which the checks of keys and the uploads need all, and forms with files."""


_NO_HEADERS: Mapping[str, str] = {}


class _Head(NamedTuple):
    path: str
    length: int
    authorization: str | None
    api_key: str | None


class Incoming:
    """A request as it arrived. `number` counts from 1; `body` is empty until all of it has come."""

    __slots__ = (
        "api_key",
        "arrived_s",
        "authorization",
        "body",
        "cloud",
        "headers",
        "in_flight",
        "is_kept",
        "method",
        "number",
        "path",
    )

    def __init__(
        self,
        method: str,
        path: str,
        authorization: str | None,
        *,
        is_kept: bool,
        api_key: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        self.method = method
        self.path = path
        self.authorization = authorization
        self.api_key = api_key
        """Value of `x-api-key`."""
        self.headers = headers
        """All headers, of a request that aiohttp has read; names in any case."""
        self.cloud: CloudCall | None = None
        """The call of a cloud's API that the path names, once that was looked up."""
        self.is_kept = is_kept
        """The connection has carried a request before."""
        self.body = b""
        self.number = self.in_flight = 0
        self.arrived_s = 0.0


class Provider(Protocol):
    """The part that decides about requests. `receive` and `leave` count requests in flight."""

    def receive(self, incoming: Incoming) -> Decision: ...

    def leave(self, incoming: Incoming, decision: Decision) -> Mapping[str, str]: ...

    def note_answered(self, incoming: Incoming, reply: ScriptedReply, *, is_out: bool) -> None: ...


class QuickConnection(asyncio.Protocol):
    """One connection, until `make_slow` takes over. A client that leaves does not end its request."""

    __slots__ = ("_ahead", "_is_kept", "_make_slow", "_provider", "_timer", "_transport", "_unfinished")

    def __init__(
        self, provider: Provider, make_slow: Callable[[], asyncio.Protocol], unfinished: set["QuickConnection"]
    ) -> None:
        self._provider = provider
        self._make_slow = make_slow
        self._unfinished = unfinished
        self._is_kept = False
        self._ahead = b""
        """Bytes that arrived before the reply to the request before was sent."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of a new connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        self._unfinished.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, unless a request is unfinished: its reply is made all the same, and counted."""
        if self._timer is None:
            self._unfinished.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer a whole plain request; hand anything else to aiohttp."""
        if self._timer is not None:
            self._ahead += data
            self._transport.pause_reading()
            return
        incoming = _plain(data, is_kept=self._is_kept)
        if incoming is None:
            self._hand_over(data)
            return
        self._is_kept = True
        decision = self._provider.receive(incoming)
        if decision.reply.delay_s:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(decision.reply.delay_s, self._answer, incoming, decision)
        else:
            self._answer(incoming, decision)

    def end(self) -> bool:
        """Answers nothing any more; whether there was something to answer."""
        self._transport.abort()
        if self._timer is None:
            return False
        self._timer.cancel()
        return True

    def _answer(self, incoming: Incoming, decision: Decision) -> None:
        self._timer, reply = None, decision.reply
        headers = self._provider.leave(incoming, decision)
        is_out = not self._transport.is_closing()
        # Noted first: no client shall have an answer of which a server that was killed at this moment knows nothing.
        self._provider.note_answered(incoming, reply, is_out=is_out)
        if is_out:
            self._transport.write(_message(reply, headers))
        else:
            self._unfinished.discard(self)
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._transport.resume_reading()
            self.data_received(ahead)

    def _hand_over(self, data: bytes) -> None:
        self._unfinished.discard(self)
        slow = self._make_slow()
        self._transport.set_protocol(slow)
        slow.connection_made(self._transport)
        slow.data_received(data)


def _plain(data: bytes, *, is_kept: bool) -> Incoming | None:
    """The request that these bytes are, when they are exactly one and an ordinary one."""
    end = data.find(b"\r\n\r\n") + 4
    head = _read_head(data[:end]) if 4 <= end <= _MAX_HEAD_BYTES else None
    if head is None or len(data) != end + head.length or _may_ask_for_a_stream(data):
        return None
    incoming = Incoming("POST", head.path, head.authorization, is_kept=is_kept, api_key=head.api_key)
    incoming.body = data[end:]
    return incoming


@lru_cache(maxsize=1024)
def _read_head(data: bytes) -> _Head | None:
    """Read an ordinary head, or return None; a client's heads differ in little but the length."""
    head = _HEAD.fullmatch(data)
    if head is None or _NOT_PLAIN.search(data) is not None:
        return None
    length = _LENGTH.search(data)
    if length is None:
        return None
    authorization, api_key = (_value_of(header, data) for header in (_AUTHORIZATION, _API_KEY))
    return _Head(head[1].decode("ascii"), int(length[1]), authorization, api_key)


def _value_of(header: re.Pattern[bytes], head: bytes) -> str | None:
    found = header.search(head)
    return None if found is None else found[1].decode("latin-1")


def _may_ask_for_a_stream(data: bytes) -> bool:
    """Look for the parameter's name, plain or with escaped letters, which otherwise hardly ever occur."""
    return b'"stream"' in data or (b"\\u00" in data and _ESCAPED_LETTER.search(data) is not None)


def _message(reply: ScriptedReply, headers: Mapping[str, str]) -> bytes:
    """The reply as RFC 9112 wants it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = (
        f"HTTP/1.1 {_status(reply.status)}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(reply.body)}\r\nDate: {_date(int(time.time()))}\r\n{lines}\r\n"
    )
    return head.encode("latin-1") + reply.body


@lru_cache
def _status(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


@lru_cache(maxsize=1)
def _date(epoch_s: int) -> str:
    return formatdate(epoch_s, usegmt=True)
