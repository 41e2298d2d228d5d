"""HTTP for batch APIs: JSON requests, uploads and downloads as streams, and what a refusal means.

Requests that may be repeated are, with growing pauses. The one that starts a batch is sent once: what is unknown after
it is raised as MaybeStarted. Each request has a connection of its own, since they are rare and a kept connection that
the server has just closed would make a start ambiguous.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import orjson

from llmblast.batching.api import (
    Access,
    BatchApiError,
    BrokenOff,
    MaybeStarted,
    NotAllowed,
    NotHere,
    NotNow,
    Rejected,
    Unreachable,
)
from llmblast.batching.download import Download
from llmblast.batching.members import Json
from llmblast.hiding import hide_user
from llmblast.http_time import agreed_time, bounded_wait_s, unix_time_of

MAX_TRIES = 5
MAX_PAUSE_S = 30.0
MAX_RETRY_AFTER_S = 300.0
"""A longer wait that a reply names is left to the caller."""
MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line of results that is kept; see `TooLong`."""
_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 120.0
_SLOWEST_BYTES_PER_S = 50_000
_PIECE_BYTES = 256 * 1024
_KEPT_BYTES_OF_LONG_LINE = 4096
_MAX_SHOWN_CHARS = 500
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_KEY_IS_INVALID = 401
_NO_RIGHTS = frozenset({_KEY_IS_INVALID, 402, 403})
_NOT_THERE = frozenset({404, 405, 410, 501})
_UNKNOWN_OUTCOME = frozenset({408, *range(500, 600)}) - _NOT_THERE
"""The server, or a gateway in front of it, may have acted all the same."""
_NEEDS_A_PERSON = frozenset({"insufficient_quota", "billing_hard_limit_reached", "FAILED_PRECONDITION"})
"""Errors of OpenAI and Google that another try does not mend: no money, or a project that may not use batches."""
QUEUE_IS_FULL = frozenset({"token_limit_exceeded", "enqueued_token_limit_exceeded", "rate_limit_exceeded"})
"""Codes of OpenAI and Azure for a batch beyond the limit of enqueued tokens."""

Payload = Callable[[], Any]
"""Makes what aiohttp sends, anew for each try."""
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TooLong:
    """The first bytes of a line that is longer than `MAX_LINE_BYTES`; the rest is dropped."""

    start: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300


class _NotReadyError(aiohttp.ClientError):
    """A download was refused for now. `wait_s` is the wait that the reply names, None for none."""

    def __init__(self, message: str, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(slots=True)
class _Progress:
    has_begun: bool = False
    """The head of the request went out: the server may act on it."""


async def _note_begin(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    if isinstance(context.trace_request_ctx, _Progress):
        context.trace_request_ctx.has_begun = True


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. `purpose` says for a person what it is for, such as `start a batch`."""

    method: str
    url: str
    purpose: str
    payload: Payload | None = None
    content_type: str | None = None
    headers: Mapping[str, str] | None = None
    size_bytes: int = 0
    """Size of the payload. The timeout grows with it."""
    if_missing: type[BatchApiError] = NotHere
    """The error to raise for a 404."""
    needs: str = ""
    """A member that the answer must have."""


class BatchHttp:
    """Sends requests to one endpoint's batch API."""

    def __init__(
        self, access: Access, *, sleep: Sleep = asyncio.sleep, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._access = access
        self._sleep = sleep
        self._wall_clock = wall_clock
        self._session: aiohttp.ClientSession | None = None
        self.clock_ahead_s = 0.0
        """By how much the server's clock is ahead of ours, as its last answer says."""

    def url(self, *path: str, **params: str | int) -> str:
        """Return the URL of a path below the base URL, with parameters behind those that the base has."""
        return url_below(self._access.base_url, *path, **params)

    async def json(self, request: HttpRequest) -> Json:
        """Return the JSON object that answers a request which may be repeated.

        Raises NotHere, NotNow, Rejected, Unreachable and `request.if_missing`.
        """
        return self._object_in(await self.repeat(request), request)

    async def json_once(self, request: HttpRequest) -> Json:
        """Return the JSON object that answers a request which starts something: sent once.

        Raises as `json` does, and MaybeStarted where the server may have done it all the same.
        """
        purpose, progress = self._place(request), _Progress()
        try:
            answer = await self._send_with_valid_key(request, progress)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not progress.has_begun:
                raise Unreachable(f"{purpose}: {self.text_of(error)}") from error
            raise MaybeStarted(f"{purpose}: no answer came ({self.text_of(error)})") from error
        if answer.status in _UNKNOWN_OUTCOME:
            raise MaybeStarted(f"{purpose}: {self._explain(answer)}")
        if not answer.is_ok:
            raise self._refusal(answer, request)
        try:
            return self._object_in(answer, request)
        except Unreachable as error:
            raise MaybeStarted(str(error)) from error

    async def lines(self, request: HttpRequest) -> AsyncGenerator[bytes | TooLong, None]:
        """Yield the lines of a file without keeping it. A broken download goes on behind its last whole line where the
        server can do that; else it begins anew, and lines come again. Raises BrokenOff where it makes no progress.
        """
        download, best_bytes, breaks = Download(), 0, 0
        while True:
            try:
                async with aclosing(self._lines_of_one_try(request, download)) as lines:
                    async for line in lines:
                        yield line
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                breaks = breaks + 1 if download.whole_bytes <= best_bytes else 1
                best_bytes = max(best_bytes, download.whole_bytes)
                if breaks >= MAX_TRIES:
                    text = f"{self._place(request)}: {self.text_of(error)}"
                    raise (BrokenOff(text) if download.is_open else Unreachable(text)) from error
                wait_s = error.wait_s if isinstance(error, _NotReadyError) else None
                await self._sleep(pause_s(breaks) if wait_s is None else min(wait_s, MAX_RETRY_AFTER_S))
            else:
                return

    async def repeat(self, request: HttpRequest) -> _Answer:
        """Return the 2xx answer to a request, after several tries where the first fail. Raises as `json` does."""
        tries = 0
        while True:
            tries += 1
            try:
                answer = await self._send_with_valid_key(request, _Progress())
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if tries >= MAX_TRIES:
                    raise Unreachable(f"{self._place(request)}: {self.text_of(error)}") from error
                await self._sleep(pause_s(tries))
                continue
            if answer.is_ok:
                return answer
            refusal = self._refusal(answer, request)
            wait_s = retry_after_s(answer.headers)
            is_worth_it = answer.status in _TRY_AGAIN and not isinstance(refusal, NotHere)
            if not is_worth_it or tries >= MAX_TRIES or (wait_s or 0.0) > MAX_RETRY_AFTER_S:
                raise refusal
            await self._sleep(pause_s(tries) if wait_s is None else wait_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def text_of(self, error: BaseException) -> str:
        """Return what an error says, for a person."""
        if isinstance(error, TimeoutError):
            return "timed out"
        if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
            number = error.os_error.errno or 0
            reason = os.strerror(number) if number > 0 else error.os_error.strerror or "the host has no address"
            return f"no connection to {error.host}:{error.port}: {reason}"
        return self.shown(str(error).partition(": <")[0]) or type(error).__name__  # without the repr of another error

    def shown(self, text: str) -> str:
        """Return a text without secrets and control characters, cut to a readable length."""
        hidden = hide_user(self._access.hide(text.encode(errors="replace")).decode(errors="replace"))
        printable = "".join(character if character.isprintable() else " " for character in hidden)
        return " ".join(printable.split())[:_MAX_SHOWN_CHARS]

    async def _send_with_valid_key(self, request: HttpRequest, progress: _Progress) -> _Answer:
        """Return the answer to a request. After a 401, which starts nothing, it is sent once more with a new key: many
        are valid for an hour, and batches take longer.
        """
        answer = await self._send(request, progress)
        renew_key = self._access.renew_key
        if answer.status == _KEY_IS_INVALID and renew_key is not None and await renew_key():
            return await self._send(request, progress)
        return answer

    async def _send(self, request: HttpRequest, progress: _Progress) -> _Answer:
        timeout_s = _TIMEOUT_S + request.size_bytes / _SLOWEST_BYTES_PER_S
        async with self._open(request, timeout_s, progress) as response:
            body = bytearray()
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                body += piece
                if len(body) > MAX_JSON_BYTES:
                    raise aiohttp.ClientPayloadError(f"the answer is longer than {MAX_JSON_BYTES} bytes")
            self._note_clock(response.headers)
            return _Answer(response.status, response.headers, self._access.hide(bytes(body)))

    async def _lines_of_one_try(
        self, request: HttpRequest, download: Download
    ) -> AsyncGenerator[bytes | TooLong, None]:
        headers = {**(request.headers or {}), **download.headers()}
        async with self._open(replace(request, headers=headers), timeout_s=None) as response:
            if response.status in _TRY_AGAIN:
                raise _NotReadyError(f"HTTP {response.status}", retry_after_s(response.headers))
            download.check(response)
            if response.status >= 300:
                body = await response.content.read(_PIECE_BYTES)
                raise self._refusal(_Answer(response.status, response.headers, body), request)
            pieces = download.count(response.content.iter_chunked(_PIECE_BYTES))
            async with aclosing(lines_of(pieces)) as lines:
                async for line in lines:
                    yield self._access.hide(line) if isinstance(line, bytes) else line

    def _open(
        self, request: HttpRequest, timeout_s: float | None, progress: _Progress | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        access = self._access
        self._session = self._session or self._new_session()
        return self._session.request(
            request.method,
            request.url,
            data=None if request.payload is None else request.payload(),
            headers=self._headers(request),
            proxy=access.proxy_url,
            proxy_headers=None if access.proxy_headers is None else dict(access.proxy_headers),
            allow_redirects=False,
            trace_request_ctx=progress,
            timeout=aiohttp.ClientTimeout(timeout_s, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S),
        )

    def _headers(self, request: HttpRequest) -> dict[str, str]:
        """Return the endpoint's headers, without its key where the URL is that of another server."""
        is_own = urlsplit(request.url)[:2] == urlsplit(self._access.base_url)[:2]
        own = self._access.headers() if is_own else {}
        headers = {name: value for name, value in own.items() if name.lower() not in ("content-type", "connection")}
        headers["Connection"] = "close"
        if urlsplit(request.url).scheme == "http" and self._access.proxy_url is not None:
            headers.update(self._access.proxy_headers or {})  # a proxy gets them by CONNECT, and forwards this itself
        if request.content_type is not None:
            headers["Content-Type"] = request.content_type
        headers.update(request.headers or {})
        return headers

    def _new_session(self) -> aiohttp.ClientSession:
        access = self._access
        connector = (
            aiohttp.TCPConnector(ssl=True if access.tls is None else access.tls)
            if access.new_connector is None
            else access.new_connector()
        )
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_begin)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[trace])

    def _note_clock(self, headers: Mapping[str, str]) -> None:
        now_s = self._wall_clock()
        self.clock_ahead_s = agreed_time(unix_time_of(headers.get("Date", "").encode()), now_s) - now_s

    def _object_in(self, answer: _Answer, request: HttpRequest) -> Json:
        try:
            value = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise Unreachable(f"{self._place(request)}: the answer is not a JSON object")
        if request.needs and not value.get(request.needs):
            raise Unreachable(f"{self._place(request)}: the answer has no {request.needs}")
        return value

    def _refusal(self, answer: _Answer, request: HttpRequest) -> BatchApiError:
        text = f"{self._place(request)}: {self._explain(answer)}"
        names = error_in(answer.body).names
        if answer.status in _NOT_THERE:
            return request.if_missing(text)
        if answer.status in _NO_RIGHTS:
            return NotAllowed(text)
        if names & _NEEDS_A_PERSON:
            return NotHere(text)
        if answer.status == 429 or names & QUEUE_IS_FULL:
            return NotNow(text, retry_after_s(answer.headers))
        return Unreachable(text) if answer.status in _TRY_AGAIN or answer.status >= 500 else Rejected(text)

    def _explain(self, answer: _Answer) -> str:
        shown = self.shown(error_in(answer.body).message)
        return f"HTTP {answer.status}: {shown}" if shown else f"HTTP {answer.status}"

    def _place(self, request: HttpRequest) -> str:
        return f"endpoint {self._access.name}: cannot {request.purpose}"


def json_payload(value: object) -> Payload:
    """Return a payload of JSON."""
    body = orjson.dumps(value)
    return lambda: body


def form_payload(file: Path, fields: Mapping[str, str]) -> Payload:
    """Return a payload of a form with fields and one file, which is read while it is sent."""

    def make() -> aiohttp.FormData:
        form = aiohttp.FormData()
        for name, value in fields.items():
            form.add_field(name, value)
        form.add_field("file", file.open("rb"), filename=f"{file.stem}.jsonl", content_type="application/jsonl")
        return form

    return make


def file_payload(file: Path) -> Payload:
    """Return a payload of the bytes of a file, which is read while it is sent."""
    return lambda: file.open("rb")


def url_below(base: str, *path: str, **params: str | int) -> str:
    """Return `base` with path segments and parameters added; a query in the base stays in front."""
    parts = urlsplit(base)
    segments = "/".join(quote(segment, safe="/:@") for segment in path)
    query = "&".join(text for text in (parts.query, urlencode(params)) if text)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{segments}", query=query).geturl()


class ErrorText(NamedTuple):
    """The message of an error reply. `names` are its codes, types and statuses."""

    message: str
    names: frozenset[str]


def error_in(body: bytes) -> ErrorText:
    """Return the error in a reply: `{"error": {...}}`, `{"error": "..."}`, `{"message": ...}` or a text."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ErrorText(body[:_MAX_SHOWN_CHARS].decode(errors="replace"), frozenset())
    if isinstance(value, list) and value:
        value = value[0]
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return ErrorText(str(error), frozenset())
    message = error.get("message") or error.get("detail") or orjson.dumps(error).decode()
    return ErrorText(str(message), frozenset(str(error.get(name)) for name in ("code", "type", "status")))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` names (RFC 9110 section 10.2.3), 0 or more; None where it names none."""
    value = headers.get("Retry-After", "").strip()
    if value.replace(".", "", 1).isdecimal():
        return bounded_wait_s(float(value))
    moment, now = unix_time_of(value.encode()), unix_time_of(headers.get("Date", "").encode())
    return None if moment is None or now is None else bounded_wait_s(moment - now)


def pause_s(tries: int) -> float:
    """Return the pause before the next try: it grows, and is never the same for several callers."""
    return min(0.5 * 2.0**tries, MAX_PAUSE_S) * random.uniform(0.5, 1.0)


async def lines_of(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes | TooLong, None]:
    """Yield the lines of a stream of bytes, without their ends and without empty ones."""
    parts: list[bytes] = []
    size = 0
    async for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for end in ended:
            line = _joined(parts, size, end)
            parts, size = [], 0
            if line:
                yield line
        size += len(rest)
        if size <= MAX_LINE_BYTES or not parts:
            parts.append(rest)
        elif len(parts) > 1:
            parts = [b"".join(parts)[:_KEPT_BYTES_OF_LONG_LINE]]
    if line := _joined(parts, size, b""):
        yield line


def _joined(parts: list[bytes], size: int, end: bytes) -> bytes | TooLong:
    if size + len(end) > MAX_LINE_BYTES:
        return TooLong(b"".join((*parts, end))[:_KEPT_BYTES_OF_LONG_LINE])
    return b"".join((*parts, end)).strip()
