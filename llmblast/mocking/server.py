"""The mock provider as a server: it receives, decides at once what the answer will be, waits, and answers.

It stands on aiohttp's low-level `web.Server`, without router and middlewares, and below that, for plain requests to a
provider without faults, on `quick`, since the client shares this core in most runs. Everything about a reply is
decided in one synchronous step after the body has come; what awaits is thin. A connection that the client gives up does
not end its request, as with the real providers.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex
from types import TracebackType
from typing import Self

from aiohttp import web

from llmblast.errors import UsageError
from llmblast.mocking.answers import Answer, Answers
from llmblast.mocking.anthropic_messages import OPERATION, PATH, error_in_its_form
from llmblast.mocking.capacity import slowdown
from llmblast.mocking.error_replies import error_body
from llmblast.mocking.fault_file import read_rules
from llmblast.mocking.faults import FAULTS, Faults
from llmblast.mocking.headers import retry_headers
from llmblast.mocking.incident import Incident
from llmblast.mocking.ledger import LedgerFile
from llmblast.mocking.quick import Incoming, QuickConnection
from llmblast.mocking.quota import Quota
from llmblast.mocking.replies import Decision, ScriptedReply, Step
from llmblast.mocking.routes import OPERATIONS, needs_key, read_only_reply, refusal
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.streaming import FIRST_SHARE, pace
from llmblast.mocking.wire import Sent, expect_body, is_kept, play, send, stream

__all__ = ["MAX_BODY_BYTES", "Arrival", "MockServer", "Script", "ScriptedReply"]

MAX_BODY_BYTES = 64 * 1024 * 1024
_BACKLOG = 4096
_CLOSE_S = 0.01
"""Handlers are cancelled before aiohttp is asked to shut down, so this only bounds what should take no time."""


Script = Callable[[int, bytes], ScriptedReply | None]
"""Takes a request's index in order of arrival, from 0, and its body; None leaves the answer to the provider."""


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
    complete. `script` overrides answers. Raises UsageError for a file of faults that will not do; entering does, when
    the address or the file of the setting `ledger` cannot be had.
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
        self._answers = Answers(self._settings, wall_clock)
        self._request_prefix = f"req_{token_hex(6)}"
        self._faults = Faults(self._settings, read_rules(self._settings.faults) if self._settings.faults else ())
        self._ledger_file: LedgerFile | None = None
        self._quota = Quota(self._settings)
        self._authorization = f"Bearer {self._settings.key}"
        self._handlers: set[asyncio.Task[object]] = set()
        self._quick: set[QuickConnection] = set()
        self._comeback: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        make_request = partial(web.BaseRequest, loop=loop, client_max_size=MAX_BODY_BYTES)
        self._web = web.Server(self._handle, request_factory=make_request, access_log=None, tcp_keepalive=False)
        host, port = self._address
        if self._settings.ledger:
            self._ledger_file = LedgerFile(self._settings.ledger)
        try:
            await self._listen()
        except OSError as error:
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror
            self._close_ledger_file()
            raise UsageError(
                f"{host}:{port}: cannot listen there: {reason}: choose another host or port (port 0 picks a free one)"
            ) from None
        address, port = self._address = self._listener.sockets[0].getsockname()[:2]
        self.url = f"http://[{address}]:{port}/v1" if ":" in address else f"http://{address}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.in_flight -= sum([connection.end() for connection in tuple(self._quick)])
        under_way = [*self._handlers, *([self._comeback] if self._comeback else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        self._web.pre_shutdown()
        await self._web.shutdown(_CLOSE_S)
        await self._listener.wait_closed()
        await asyncio.sleep(0)  # transports say goodbye in the loop's next round
        self._close_ledger_file()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, *self._address, backlog=_BACKLOG)

    def _connection(self) -> asyncio.BaseProtocol:
        """What serves a new connection; only aiohttp's requests can wait, drip and break."""
        is_slow = self._faults.are_any or self._script is not None
        return self._web() if is_slow else QuickConnection(self, self._web, self._quick)

    def _close_ledger_file(self) -> None:
        if self._ledger_file is not None:
            self._ledger_file.close()

    def receive(self, incoming: Incoming) -> Decision:
        """Counts a request that came whole, and decides about it."""
        self._arrive(incoming)
        return self._count(incoming, self._decide(incoming))

    def leave(self, incoming: Incoming, decision: Decision) -> Mapping[str, str]:
        """Charges the output of a reply that goes out now; the headers that tell what is left."""
        self.in_flight -= 1
        return self._tell(incoming, decision)

    def note_answered(self, incoming: Incoming, reply: ScriptedReply, *, is_out: bool) -> None:
        """A reply has gone, to a client that was there until then or not."""
        if self._ledger_file is not None:
            status = 0 if reply.break_connection else reply.status
            is_complete = is_out and reply.is_whole
            self._ledger_file.answered(incoming.number, self._clock(), status, is_complete, reply.text)

    def _arrive(self, incoming: Incoming) -> None:
        self.received += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        incoming.number, incoming.in_flight, incoming.arrived_s = self.received, self.in_flight, self._clock()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        api_key = request.headers.get("x-api-key")
        incoming = Incoming(request.method, request.raw_path, authorization, is_kept=is_kept(request), api_key=api_key)
        self._arrive(incoming)
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            decision = self._count(incoming, await self._decide_when_read(request, incoming))
            reply = decision.reply
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
            if reply.down_s:
                self._go_down(reply.down_s)
            if reply.steps is not None:
                return await self._play(request, incoming, decision, reply.steps)
            if reply.events is not None:
                return await self._stream(request, incoming, decision, reply.events)
        finally:
            self.in_flight -= 1
            self._handlers.discard(handler)
        if reply.break_connection and request.transport is not None:
            request.transport.close()
        response = web.Response(body=reply.body, status=reply.status, content_type="application/json")
        response.headers.update(self._tell(incoming, decision))
        if self._ledger_file is not None:
            self.note_answered(incoming, reply, is_out=await send(request, response))
        return response

    def _tell(self, incoming: Incoming, decision: Decision) -> Mapping[str, str]:
        if not decision.is_ours:
            return decision.reply.headers
        reply = decision.reply
        headers = {
            "x-request-id": self._request_id(incoming),
            "openai-processing-ms": str(int(reply.delay_s * 1000)),
        }
        if _is_for_messages(incoming):
            headers = {"request-id": self._request_id(incoming)}
        if self._quota.has_limits:
            now = self._clock()
            self._quota.settle(decision.output_tokens, now)
            headers.update(self._quota.headers(now, self._wall_clock()))
        headers.update(reply.headers)
        return headers

    def _request_id(self, incoming: Incoming) -> str:
        return f"{self._request_prefix}{incoming.number:08x}"

    async def _stream(
        self, request: web.BaseRequest, incoming: Incoming, decision: Decision, events: Iterable[bytes | float]
    ) -> web.StreamResponse:
        """Streams a body; its output is not known, and not charged, before its end."""
        headers = self._tell(incoming, replace(decision, output_tokens=0))
        response = web.StreamResponse(status=decision.reply.status, headers=headers)
        is_out = await stream(request, response, events)
        self._quota.settle(decision.output_tokens, self._clock())
        self.note_answered(incoming, decision.reply, is_out=is_out)
        return response

    async def _play(
        self, request: web.BaseRequest, incoming: Incoming, decision: Decision, steps: Iterable[Step]
    ) -> web.StreamResponse:
        self._quota.settle(decision.output_tokens, self._clock())
        self.note_answered(incoming, decision.reply, is_out=await play(request, steps))
        return Sent()

    def _go_down(self, seconds: float) -> None:
        """Refuses connections and ends those that are open, for a time."""
        if self._comeback is not None and not self._comeback.done():
            return
        self._listener.close()
        for connection in self._web.connections:
            connection.force_close()
        self._comeback = asyncio.get_running_loop().create_task(self._come_back(seconds))

    async def _come_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()

    async def _decide_when_read(self, request: web.BaseRequest, incoming: Incoming) -> Decision:
        try:
            await expect_body(request)
            incoming.body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return Decision(refusal(413, f"The body exceeds {MAX_BODY_BYTES} bytes.", "request_too_large"))
        except web.RequestPayloadError:
            return Decision(refusal(400, "The body could not be decoded.", "invalid_body"))
        except ConnectionError:
            return Decision(ScriptedReply(break_connection=True))
        return self._scripted(incoming) or self._decide(incoming)

    def _scripted(self, incoming: Incoming) -> Decision | None:
        reply = self._script(incoming.number - 1, incoming.body) if self._script else None
        return None if reply is None else Decision(reply, is_ours=False)

    def _count(self, incoming: Incoming, decision: Decision) -> Decision:
        """Counts what was decided, in the order in which bodies were complete."""
        if decision.reply.status == 429:
            self.rejected += 1
        if self._ledger_file is not None:
            self._ledger_file.received(
                incoming.number, incoming.arrived_s, incoming.path, incoming.body, decision.fault
            )
        if self._keep_ledger:
            status = 0 if decision.reply.break_connection else decision.reply.status
            has_authorization = incoming.authorization is not None or incoming.api_key is not None
            self.ledger.append(
                Arrival(incoming.arrived_s, incoming.path, incoming.body, has_authorization, status, incoming.in_flight)
            )
        return decision

    def _decide(self, incoming: Incoming) -> Decision:
        decision = self._decide_in_openai_form(incoming)
        reply = decision.reply
        if reply.status >= 400 and reply.steps is None and _is_for_messages(incoming):
            reply = replace(reply, body=error_in_its_form(reply.status, reply.body, self._request_id(incoming)))
            return replace(decision, reply=reply)
        return decision

    def _decide_in_openai_form(self, incoming: Incoming) -> Decision:
        path = incoming.path.partition("?")[0]
        operation = OPERATIONS.get(path)
        if operation is None or incoming.method != "POST":
            return Decision(self._read_only(incoming, path))
        if not self._is_authorized(incoming, operation):
            return Decision(_UNAUTHORIZED)
        answer = self._answers.answer(operation, incoming.body)
        if answer.status != 200:
            return Decision(ScriptedReply(answer.status, answer.body))
        return self._reject(incoming, answer) or self._with_fault(incoming, answer)

    def _read_only(self, incoming: Incoming, path: str) -> ScriptedReply:
        reply = read_only_reply(incoming.method, path, self._answers.models)
        is_open = reply.status != 200 or not needs_key(path) or self._is_authorized(incoming)
        return reply if is_open else _UNAUTHORIZED

    def _is_authorized(self, incoming: Incoming, operation: str = "") -> bool:
        settings = self._settings
        if operation == OPERATION and incoming.api_key is not None:
            return not (settings.unauthorized or (settings.key and incoming.api_key != settings.key))
        return not (settings.unauthorized or (settings.key and incoming.authorization != self._authorization))

    def _reject(self, incoming: Incoming, answer: Answer) -> Decision | None:
        settings = self._settings
        if settings.concurrency is not None and incoming.in_flight > settings.concurrency:
            message = f"Too many requests in flight: Limit {settings.concurrency}."
            # Nobody knows when a slot frees; the mean latency is when it is likely.
            return self._too_many(message, "requests", settings.latency)
        if not self._quota.has_limits:
            return None
        rejection = self._quota.admit(answer.prompt_tokens, answer.most_output_tokens, incoming.arrived_s)
        if rejection is None:
            return None
        return self._too_many(rejection.message, rejection.kind, rejection.wait_s)

    def _with_fault(self, incoming: Incoming, answer: Answer) -> Decision:
        rule, latency_s = self._faults.draw(incoming.body, incoming.number, incoming.arrived_s)
        latency_s *= slowdown(incoming.in_flight, self._settings.slots, self._settings.overload)
        if rule is None:
            reply = ScriptedReply(body=answer.body, delay_s=latency_s, text=answer.text)
            return Decision(_streamed(reply, answer) if answer.events else reply, answer.output_tokens)
        identity = self._request_id(incoming)
        incident = Incident(answer, self._wall_clock(), incoming.is_kept, rule.seconds, identity)
        return _befallen(rule.kind, incident, latency_s)

    def _too_many(self, message: str, kind: str, wait_s: float) -> Decision:
        is_told = self._settings.tell_retry_after and wait_s < math.inf
        # Errors know two types of rate limits; input and output are both tokens.
        body = error_body(message, "requests" if kind == "requests" else "tokens", None, "rate_limit_exceeded")
        return Decision(ScriptedReply(429, body, retry_headers(wait_s) if is_told else {}))


def _befallen(kind: str, incident: Incident, latency_s: float) -> Decision:
    """What a fault makes of a request. An output that nobody gets was made all the same, and is paid for."""
    reply = FAULTS[kind](incident)
    if reply.status != 429:
        reply.delay_s = latency_s
    was_made = reply.status in (0, 200)
    if reply.status == 200 and incident.answer.events:
        reply.headers = {"Content-Type": incident.answer.content_type, **reply.headers}
    return Decision(reply, incident.answer.output_tokens if was_made else 0, fault=kind)


def _streamed(reply: ScriptedReply, answer: Answer) -> ScriptedReply:
    """The same in parts, of which the last one has the whole latency."""
    latency_s = reply.delay_s
    reply.delay_s = FIRST_SHARE * latency_s
    reply.events = pace(answer.events, latency_s - reply.delay_s)
    reply.headers = {"Content-Type": answer.content_type, "Cache-Control": "no-cache"}
    return reply


def _is_for_messages(incoming: Incoming) -> bool:
    return incoming.path.partition("?")[0] == PATH


_UNAUTHORIZED = refusal(401, "Incorrect API key provided.", "invalid_api_key")
