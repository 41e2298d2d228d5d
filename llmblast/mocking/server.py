"""The mock provider as a server: it receives, decides at once what the answer will be, waits, and answers.

It stands on aiohttp's low-level `web.Server`, without router and middlewares, since the client shares this core in most
runs: 25,000 requests/s on one core where no limit is set. Everything about a reply is decided in one synchronous step
after the body has come; what awaits is thin. A connection that the client gives up does not end its request, as with
the real providers.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import web

from llmblast.errors import UsageError
from llmblast.mocking.answers import Answer, Answers, error_body, models_body
from llmblast.mocking.capacity import slowdown
from llmblast.mocking.faults import Fault, Faults
from llmblast.mocking.headers import retry_headers
from llmblast.mocking.quota import Quota
from llmblast.mocking.settings import MockSettings
from llmblast.settings import API_PATHS

MAX_BODY_BYTES = 64 * 1024 * 1024
_BACKLOG = 4096
_CLOSE_S = 0.01
"""Handlers are cancelled before aiohttp is asked to shut down, so this only bounds what should take no time."""

_PREFIXES = ("", "/v1")
_OPERATIONS = {f"{prefix}/{path}": path for prefix in _PREFIXES for path in API_PATHS}
_MODELS = {f"{prefix}/models" for prefix in _PREFIXES}


@dataclass(slots=True, eq=False)
class ScriptedReply:
    """What is answered to one request, after `delay_s` seconds; `break_connection` closes it without an answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    break_connection: bool = False


Script = Callable[[int, bytes], ScriptedReply | None]
"""Takes a request's index in order of arrival, from 0, and its body; None leaves the answer to the provider."""


@dataclass(slots=True, eq=False)
class _Decision:
    """A reply, the output that is charged when it is complete, and whether limits are told with it."""

    reply: ScriptedReply
    output_tokens: int = 0
    tells_limits: bool = True


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as the server saw it. `status` is 0 where the connection is broken instead of an answer.

    `arrived_s` is monotonic; `in_flight` counts the requests without an answer at that moment, this one among them.
    """

    arrived_s: float
    path: str
    body: bytes
    has_authorization: bool
    status: int
    in_flight: int


class MockServer:
    """A mock provider on a real socket: `async with MockServer(settings) as server: ... server.url`.

    `received` counts all requests, `rejected` the 429s among their answers, `most_in_flight` how many were without an
    answer at once. `ledger` has them one by one where `keep_ledger` is set, in the order in which their bodies were
    complete. `script` overrides answers. Entering raises UsageError when the address cannot be had.
    """

    def __init__(
        self,
        settings: MockSettings | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        keep_ledger: bool = False,
        script: Script | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.received = 0
        self.rejected = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.ledger: list[Arrival] = []
        self.url = ""
        self._settings = settings or MockSettings()
        self._address = (host, port)
        self._keep_ledger = keep_ledger
        self._script = script
        self._clock = clock
        self._wall_clock = wall_clock
        self._answers = Answers(self._settings)
        self._faults = Faults(self._settings)
        self._quota = Quota(self._settings)
        self._authorization = f"Bearer {self._settings.key}"
        self._handlers: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        make_request = partial(web.BaseRequest, loop=loop, client_max_size=MAX_BODY_BYTES)
        self._web = web.Server(self._handle, request_factory=make_request, access_log=None, tcp_keepalive=False)
        host, port = self._address
        try:
            self._listener = await loop.create_server(self._web, host, port, backlog=_BACKLOG)
        except OSError as error:
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror
            raise UsageError(
                f"{host}:{port}: cannot listen there: {reason}. Choose another host or port; port 0 picks a free one."
            ) from None
        address, port = self._listener.sockets[0].getsockname()[:2]
        self.url = f"http://[{address}]:{port}/v1" if ":" in address else f"http://{address}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        self._web.pre_shutdown()
        await self._web.shutdown(_CLOSE_S)
        await self._listener.wait_closed()
        await asyncio.sleep(0)  # transports say goodbye in the loop's next round

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        arrived_s = self._clock()
        index = self.received
        self.received += 1
        self.in_flight += 1
        in_flight = self.in_flight
        self.most_in_flight = max(self.most_in_flight, in_flight)
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            decision = await self._decide_when_read(request, index, arrived_s, in_flight)
            reply = decision.reply
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
        finally:
            self.in_flight -= 1
            self._handlers.discard(handler)
        if reply.break_connection and request.transport is not None:
            request.transport.close()
        response = web.Response(body=reply.body, status=reply.status, content_type="application/json")
        if self._quota.has_limits and decision.tells_limits:
            now = self._clock()
            self._quota.settle(decision.output_tokens, now)
            response.headers.update(self._quota.headers(now, self._wall_clock()))
        if reply.headers:
            response.headers.update(reply.headers)
        return response

    async def _decide_when_read(
        self, request: web.BaseRequest, index: int, arrived_s: float, in_flight: int
    ) -> _Decision:
        """Reads the body, decides about the reply and counts it."""
        body = b""
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            decision = _refusal(413, f"The body exceeds {MAX_BODY_BYTES} bytes.", code="request_too_large")
        except web.RequestPayloadError:
            decision = _refusal(400, "The body could not be decoded.", code="invalid_body")
        except ConnectionError:
            decision = _Decision(ScriptedReply(break_connection=True))
        else:
            scripted = self._script(index, body) if self._script else None
            if scripted is not None:
                decision = _Decision(scripted, tells_limits=False)
            else:
                decision = self._decide(request, body, arrived_s, in_flight)
        reply = decision.reply
        if reply.status == 429:
            self.rejected += 1
        if self._keep_ledger:
            status = 0 if reply.break_connection else reply.status
            has_authorization = "Authorization" in request.headers
            self.ledger.append(Arrival(arrived_s, request.raw_path, body, has_authorization, status, in_flight))
        return decision

    def _decide(self, request: web.BaseRequest, body: bytes, now: float, in_flight: int) -> _Decision:
        path = request.raw_path.partition("?")[0]
        operation = _OPERATIONS.get(path)
        if operation is None and path not in _MODELS:
            return _refusal(404, f"Invalid URL ({request.method} {path})", code="unknown_url")
        if request.method != ("POST" if operation else "GET"):
            return _refusal(405, f"Not allowed to {request.method} on {path}.", code="method_not_allowed")
        refusal = self._refuse_key(request)
        if refusal is not None:
            return refusal
        if operation is None:
            return _Decision(ScriptedReply(body=models_body()))
        answer = self._answers.answer(operation, body)
        if answer.status != 200:
            return _Decision(ScriptedReply(answer.status, answer.body))
        return self._reject(answer, now, in_flight) or self._with_fault(body, answer, in_flight)

    def _refuse_key(self, request: web.BaseRequest) -> _Decision | None:
        settings = self._settings
        if settings.unauthorized or (settings.key and request.headers.get("Authorization") != self._authorization):
            return _refusal(401, "Incorrect API key provided.", code="invalid_api_key")
        return None

    def _reject(self, answer: Answer, now: float, in_flight: int) -> _Decision | None:
        settings = self._settings
        if settings.concurrency is not None and in_flight > settings.concurrency:
            message = f"Too many requests in flight: Limit {settings.concurrency}."
            # Nobody knows when a slot frees; the mean latency is when it is likely.
            return self._too_many(message, "requests", settings.latency)
        if not self._quota.has_limits:
            return None
        rejection = self._quota.admit(answer.prompt_tokens, answer.most_output_tokens, now)
        if rejection is None:
            return None
        return self._too_many(rejection.message, rejection.kind, rejection.wait_s)

    def _with_fault(self, body: bytes, answer: Answer, in_flight: int) -> _Decision:
        settings = self._settings
        fault, latency_s = self._faults.draw(body)
        latency_s *= slowdown(in_flight, settings.slots, settings.overload)
        match fault:
            case Fault.NONE:
                return _Decision(ScriptedReply(body=answer.body, delay_s=latency_s), answer.output_tokens)
            case Fault.MALFORMED:
                half = answer.body[: len(answer.body) // 2]
                return _Decision(ScriptedReply(body=half, delay_s=latency_s), answer.output_tokens)
            case Fault.BROKEN:
                # The output was made, and is paid for, although nobody gets it.
                return _Decision(ScriptedReply(break_connection=True, delay_s=latency_s), answer.output_tokens)
            case Fault.RATE_LIMITED:
                message = "Rate limit reached, as --rate-limited asks for."
                return self._too_many(message, "requests", settings.retry_after)
            case Fault.ERROR:
                message = "The server had an error while processing your request."
                return _Decision(ScriptedReply(500, error_body(message, "server_error"), delay_s=latency_s))

    def _too_many(self, message: str, kind: str, wait_s: float) -> _Decision:
        is_told = self._settings.tell_retry_after and wait_s < math.inf
        # Errors know two types of rate limits; input and output are both tokens.
        body = error_body(message, "requests" if kind == "requests" else "tokens", None, "rate_limit_exceeded")
        return _Decision(ScriptedReply(429, body, retry_headers(wait_s) if is_told else {}))


def _refusal(status: int, message: str, code: str) -> _Decision:
    return _Decision(ScriptedReply(status, error_body(message, "invalid_request_error", None, code)))
