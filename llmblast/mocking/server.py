"""The mock provider as a server: it receives, decides at once what the answer will be, waits, and answers.

It stands on aiohttp's low-level `web.Server`, without router and middlewares, and below that, for plain requests to a
provider without faults, on `quick`, since the client shares this core in most runs. Everything about a reply is
decided in one synchronous step after the body has come; what awaits is thin. A connection that the client gives up does
not end its request, as with the real providers.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import web

from llmblast.errors import UsageError
from llmblast.mocking.batch_calls import Reading
from llmblast.mocking.batch_routes import Found, find_call
from llmblast.mocking.provider import MockProvider, Script
from llmblast.mocking.quick import Incoming, QuickConnection
from llmblast.mocking.replies import Decision, ScriptedReply, Step
from llmblast.mocking.routes import refusal
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.tally import Arrival, Tally
from llmblast.mocking.uploads import MAX_UPLOAD_BYTES, TooLargeError, receive
from llmblast.mocking.wire import Sent, expect_body, is_kept, play, send, stream

__all__ = ["MAX_BODY_BYTES", "Arrival", "MockServer", "Script", "ScriptedReply"]

MAX_BODY_BYTES = 64 * 1024 * 1024
_BACKLOG = 4096
_CLOSE_S = 0.01
"""Handlers are cancelled before aiohttp is asked to shut down, so this only bounds what should take no time."""


class MockServer:
    """A mock provider on a real socket: `async with MockServer(settings) as server: ... server.url`.

    `script` overrides answers. Raises UsageError for a file of faults that is not valid; entering does, if the address
    or the file of the setting `ledger` cannot be used.
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
        settings = settings or MockSettings()
        self.url = ""
        self._address = (host, port)
        self._tally = Tally(clock, settings.ledger, keep_ledger=keep_ledger)
        self._provider = MockProvider(settings, script, clock, wall_clock, self._tally.record_batch_event)
        self._handlers: set[asyncio.Task[object]] = set()
        self._quick: set[QuickConnection] = set()
        self._comeback: asyncio.Task[None] | None = None

    @property
    def received(self) -> int:
        """Number of all requests."""
        return self._tally.received

    @property
    def rejected(self) -> int:
        """Number of replies with status 429."""
        return self._tally.rejected

    @property
    def in_flight(self) -> int:
        """Number of requests without an answer."""
        return self._tally.in_flight

    @property
    def most_in_flight(self) -> int:
        """Most requests that were without an answer at once."""
        return self._tally.most_in_flight

    @property
    def ledger(self) -> list[Arrival]:
        """All requests, in the order in which their bodies were complete; empty unless `keep_ledger` is set."""
        return self._tally.ledger

    @property
    def batch_ledger(self) -> list[Mapping[str, object]]:
        """All events of batches, as in the file of the setting `ledger`; empty unless `keep_ledger` is set."""
        return self._tally.batch_ledger

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        make_request = partial(web.BaseRequest, loop=loop, client_max_size=MAX_BODY_BYTES)
        self._web = web.Server(self._handle, request_factory=make_request, access_log=None, tcp_keepalive=False)
        host, port = self._address
        self._tally.open()
        try:
            await self._listen()
        except OSError as error:
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror
            self._tally.close()
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
        self._tally.in_flight -= sum([connection.end() for connection in tuple(self._quick)])
        under_way = [*self._handlers, *([self._comeback] if self._comeback else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._provider.batches.close()
        self._web.pre_shutdown()
        await self._web.shutdown(_CLOSE_S)
        await self._listener.wait_closed()
        await asyncio.sleep(0)  # transports say goodbye in the loop's next round
        self._tally.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, *self._address, backlog=_BACKLOG)

    def _connection(self) -> asyncio.BaseProtocol:
        """Return the protocol for a new connection; only aiohttp's can wait, drip and break."""
        return QuickConnection(self, self._web, self._quick) if self._provider.is_plain else self._web()

    def receive(self, incoming: Incoming) -> Decision:
        """Count a request that came whole, and decide about it."""
        self._tally.record_arrival(incoming)
        return self._tally.record_decision(incoming, self._provider.decide(incoming))

    def note_answered(self, incoming: Incoming, reply: ScriptedReply, *, is_out: bool) -> None:
        """Record a reply that was sent."""
        self._tally.record_reply(incoming, reply, is_out=is_out)

    def leave(self, incoming: Incoming, decision: Decision) -> Mapping[str, str]:
        """Charges the output of a reply that goes out now; the headers that tell what is left."""
        self._tally.in_flight -= 1
        return self._provider.charge(incoming, decision)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        api_key = request.headers.get("x-api-key")
        incoming = Incoming(
            request.method,
            request.raw_path,
            authorization,
            is_kept=is_kept(request),
            api_key=api_key,
            headers=request.headers,
        )
        self._tally.record_arrival(incoming)
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            decision = self._tally.record_decision(incoming, await self._decide_when_read(request, incoming))
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
            self._tally.in_flight -= 1
            self._handlers.discard(handler)
        if reply.break_connection and request.transport is not None:
            request.transport.close()
        response = web.Response(body=reply.body, status=reply.status, content_type="application/json")
        response.headers.update(self._provider.charge(incoming, decision))
        if self._tally.has_file:
            self._tally.record_reply(incoming, reply, is_out=await send(request, response))
        return response

    async def _stream(
        self, request: web.BaseRequest, incoming: Incoming, decision: Decision, events: Iterable[bytes | float]
    ) -> web.StreamResponse:
        """Streams a body; its output is not known, and not charged, before its end."""
        headers = self._provider.charge(incoming, replace(decision, output_tokens=0))
        response = web.StreamResponse(status=decision.reply.status, headers=headers)
        is_out = await stream(request, response, events)
        self._provider.charge_stream(decision)
        self._tally.record_reply(incoming, decision.reply, is_out=is_out)
        return response

    async def _play(
        self, request: web.BaseRequest, incoming: Incoming, decision: Decision, steps: Iterable[Step]
    ) -> web.StreamResponse:
        self._provider.charge_stream(decision)
        self._tally.record_reply(incoming, decision.reply, is_out=await play(request, steps))
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
            found = find_call(incoming)
            if found is not None and found.route.reading is not Reading.WHOLE:
                return await self._decide_when_stored(request, incoming, found)
            incoming.body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return Decision(refusal(413, f"The body exceeds {MAX_BODY_BYTES} bytes.", "request_too_large"))
        except web.RequestPayloadError:
            return Decision(refusal(400, "The body could not be decoded.", "invalid_body"))
        except ConnectionError:
            return Decision(ScriptedReply(break_connection=True))
        return self._provider.scripted(incoming) or self._provider.decide(incoming)

    async def _decide_when_stored(self, request: web.BaseRequest, incoming: Incoming, found: Found) -> Decision:
        try:
            upload = await receive(request, found.route.reading, self._provider.batches.new_file)
        except TooLargeError:
            return Decision(refusal(413, f"The body exceeds {MAX_UPLOAD_BYTES} bytes.", "request_too_large"))
        except ValueError as error:
            return Decision(refusal(400, f"The body is not a form with parts: {error}.", "invalid_body"))
        return self._provider.scripted(incoming) or self._provider.decide_upload(incoming, found, upload)
