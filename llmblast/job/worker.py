"""Worker: one of several processes that share a run's work. It shapes lines, sends what it is told to, renders answers.

What is decided for the whole run, when what goes where, what comes of a failure and what is in the files, is decided by
the process that has started it; see `crew`. So a worker keeps nothing that could be lost: it ends at once when that
process is gone, and whatever it had in flight then has no record.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import orjson

from llmblast.job.channels import open_channels
from llmblast.job.links import Link, receive
from llmblast.job.loop import run_loop, tune_collector
from llmblast.reading import OversizedLine, Shaper
from llmblast.records import Answer, Failure, Reply, Request, Success
from llmblast.sending import Channel, judge
from llmblast.settings import Settings
from llmblast.writing import render

SWEEP_INTERVAL_S = 0.25
HEARING_INTERVAL_S = 0.005
"""Headers of answers are handed on so often: they tell of the provider's limits, and more of them say nothing new."""


def serve(connected: socket.socket, settings: Settings) -> NoReturn:
    """A worker's whole life in its own process: until the other end of the socket is closed.

    Signals that end a run go to all of its processes, and mean the one that leads it.
    """
    for number in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGINFO"):
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)  # whoever reads our output or writes our input waits for the end of its last holder
    os.dup2(nothing, 1)
    try:
        run_loop(_serve(connected, settings))
    except EOFError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 -- the process ends here, whatever it was
        import traceback  # noqa: PLC0415 -- a defect of ours: rare

        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # nothing of the process that it was forked from is to be cleaned up here


async def _serve(connected: socket.socket, settings: Settings) -> None:
    places: Sequence[tuple[str, str | None]] = receive(connected)
    endpoints = [replace(endpoint, url=url) for endpoint, (url, _) in zip(settings.endpoints, places, strict=True)]
    async with AsyncExitStack() as stack:
        channels = open_channels(settings, endpoints, [key for _, key in places], stack)
        worker = Worker(settings, channels)
        tune_collector(settings.concurrency)
        await worker.run(connected)
        os._exit(0)  # at once, with all connections: the run is over, or its first process was killed


class Worker:
    """Does what stands in the frames from the other process, in their order.

    A frame to it is `(lines, starts, restarts, forgotten, cancelled, calls)`, one from it `(shaped, answered, replies,
    late, results)`; `crew` says what is in them. A send is named by its line's number times the number of endpoints
    plus the endpoint's index.
    """

    def __init__(self, settings: Settings, channels: Sequence[Channel]) -> None:
        self._shaper = Shaper(settings)
        self._channels = channels
        self._names = [endpoint.name for endpoint in settings.endpoints]
        self._echo = settings.echo
        self._body = settings.body
        self._hedges = settings.hedge is not None
        self._requests: dict[int, Request] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._heard_s = [0.0] * len(channels)
        self._shaped: list[Any] = []
        self._answered: list[Any] = []
        self._replies: list[Any] = []
        self._late: list[Any] = []
        self._results: list[Any] = []
        self._will_flush = False
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._bug: BaseException | None = None
        self._link = Link(self._obey, self._gone.set)
        for index, channel in enumerate(channels):
            channel.on_reply = partial(self._replied, index)
            channel.on_late = partial(self._left_late, index)

    async def run(self, connected: socket.socket) -> None:
        """Works until the other process closes its end."""
        await self._link.open(connected)
        while not self._gone.is_set():
            for channel in self._channels:
                channel.sweep(time.monotonic())
            try:
                async with asyncio.timeout(SWEEP_INTERVAL_S):
                    await self._gone.wait()
            except TimeoutError:
                continue
        self._link.close()  # before anything else: the other process must not wait for what is to be cleaned up
        if self._bug is not None:
            raise self._bug

    def _obey(self, frame: Any) -> None:
        try:
            self._do(frame)
        except Exception as error:  # noqa: BLE001 -- the link's callback would lose it: `run` raises it
            self._fail(error)

    def _do(self, frame: Any) -> None:
        lines, starts, restarts, forgotten, cancelled, calls = frame
        for texts in lines:
            self._shaped.append([self._shape(*line) for line in texts])
        now = iter(starts)
        for send, sent_s in zip(now, now, strict=True):
            self._start(send, sent_s)
        for send, sent_s, history in restarts:
            self._restart(send, sent_s, history)
        for send in cancelled:
            if (task := self._tasks.get(send)) is not None:
                task.cancel()
        for number in forgotten:  # after the starts: a twin may go in the very turn in which the first send is answered
            self._requests.pop(number, None)
        for number, index, connections in calls:
            task = self._loop.create_task(self._warm_up(number, index, connections))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        if lines:
            self._flush_soon()

    def _shape(self, number: int, key: str, text: bytes, size_bytes: int | None = None) -> tuple[Any, ...]:
        if size_bytes is not None:
            text = OversizedLine.of(text, key, size_bytes)
        shaped = self._shaper.shape(number, key, text)
        if isinstance(shaped, Failure):
            return shaped.error, shaped.line.id
        self._requests[number] = shaped
        return len(shaped.body), shaped.max_tokens, shaped.deferred

    def _start(self, send: int, sent_s: float) -> None:
        number, index = divmod(send, len(self._channels))
        request = self._requests[number]
        if self._hedges:
            request = copy(request)  # it may be in flight twice
        request.sent_s = sent_s
        if self._hedges or not self._channels[index].start(request):
            task = self._tasks[send] = self._loop.create_task(self._carry(index, request))
            task.add_done_callback(partial(self._carried, send))

    def _restart(self, send: int, sent_s: float, history: tuple[int, int, bool]) -> None:
        """What has failed before: `attempts`, `ambiguous_sends` and `resent` are the run's knowledge."""
        request = self._requests[send // len(self._channels)]
        request.attempts, request.ambiguous_sends, request.resent = history
        self._start(send, sent_s)

    async def _carry(self, index: int, request: Request) -> None:
        self._replied(index, request, await self._channels[index].send(request))

    def _carried(self, send: int, task: asyncio.Task[None]) -> None:
        del self._tasks[send]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _warm_up(self, call: int, index: int, connections: int) -> None:
        reply = await self._channels[index].warm_up(connections)
        self._results.append((call, None if reply is None else reply.detail))
        self._flush_soon()

    def _left_late(self, index: int, request: Request, is_fresh: bool) -> None:
        self._late.append((request.number * len(self._channels) + index, is_fresh))
        self._flush_soon()

    def _fail(self, bug: BaseException) -> None:
        self._bug = bug
        self._gone.set()

    def _replied(self, index: int, request: Request, reply: Reply) -> None:
        try:
            self._report(index, request, reply)
        except Exception as error:  # noqa: BLE001 -- the channel's callback would lose it: `run` raises it
            self._fail(error)

    def _report(self, index: int, request: Request, reply: Reply) -> None:
        send = request.number * len(self._channels) + index
        now = time.monotonic()
        answer = None if self._hedges else judge(request, reply, 0.0)
        if isinstance(answer, Answer):
            reply.latency_s = now - request.sent_s
            request.attempts += 1
            record = render(Success(request, answer, reply, self._names[index]), self._echo, self._body)
            del self._requests[request.number]
            self._answered.append(
                (
                    send,
                    reply.latency_s,
                    answer.finish_reason,
                    answer.prompt_tokens,
                    answer.completion_tokens,
                    self._headers_to_hear(index, reply, now),
                    record,
                )
            )
        else:
            self._replies.append((send, *_whole(reply), *_own(request)))
        self._flush_soon()

    def _headers_to_hear(self, index: int, reply: Reply, now: float) -> Mapping[bytes, bytes] | None:
        if now < self._heard_s[index] + HEARING_INTERVAL_S:
            return None
        self._heard_s[index] = now
        return dict(reply.headers)

    def _flush_soon(self) -> None:
        """All that happens in one turn of the loop goes in one frame."""
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        self._link.send((self._shaped, self._answered, self._replies, self._late, self._results))
        self._shaped, self._answered, self._replies, self._late, self._results = [], [], [], [], []


def _whole(reply: Reply) -> tuple[Any, ...]:
    cause = None if reply.cause is None else reply.cause.name
    return reply.status, dict(reply.headers), reply.body, cause, reply.detail


def _own(request: Request) -> tuple[Any, ...]:
    """What a verdict needs of this line and a record has beside its text; JSON that is copied unparsed is handed over
    as bytes.
    """
    is_json = isinstance(request.input, orjson.Fragment)
    shown = orjson.dumps(request.input) if is_json else request.input
    return request.path, request.needs_model, request.output_format, request.id, request.extra, is_json, shown
