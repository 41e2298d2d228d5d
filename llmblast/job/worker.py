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
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import orjson

from llmblast.job.channels import open_channels
from llmblast.job.consequences import CUT_OFF_REASONS
from llmblast.job.frames import News, Orders
from llmblast.job.links import Link, receive
from llmblast.job.loop import run_loop, tune_collector
from llmblast.reading import OversizedLine, Shaper
from llmblast.records import Answer, Failure, Reply, Request, Success
from llmblast.scheduling import SHORTEST_SERVICE_S
from llmblast.sending import Action, Blame, Channel, judge
from llmblast.settings import Settings
from llmblast.writing import render

SWEEP_INTERVAL_S = 0.25
HEARING_INTERVAL_S = 0.005
"""Headers of answers are handed on so often: they tell of the provider's limits, and more of them say nothing new."""

GATHER_S = 0.005
"""So long the leader need not hear of answers to a worker's own lines."""
HALTING = (Action.PUSH_BACK, Action.REFUSED, Action.NOT_SENT)
"""What says something of the whole endpoint: a worker sends no more lines of its own before the leader knows."""


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
    """Does what stands in the leader's frames, in their order, and reports; see `frames`.

    Lines come in two ways. Of most the leader decides each send, with all its limits. Where nothing but slots holds a
    send back, a worker is lent some, and fills them with lines of its own as long as these are answered: the leader
    hears of that in sums. A line of its own that is not answered becomes the leader's, together with its slot.
    """

    def __init__(self, settings: Settings, channels: Sequence[Channel]) -> None:
        self._shaper = Shaper(settings)
        self._channels = channels
        self._names = [endpoint.name for endpoint in settings.endpoints]
        self._echo = settings.echo
        self._body = settings.body
        self._hedges = settings.hedge is not None
        self._has_rate = settings.has_rate or any(endpoint.has_rate for endpoint in settings.endpoints)
        self._requests: dict[int, Request] = {}
        """Those that the leader decides on."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._heard_s = [0.0] * len(channels)
        self._own: deque[Request] = deque()
        """Own lines that have not been sent."""
        self._slots = 0
        self._owed = 0
        """Slots that are to be given back as they become free."""
        self._is_halted = False
        """An own line met with more than bad luck: nothing goes before the leader has heard of it."""
        self._unheard = 0
        self._in_flight = 0
        self._own_bytes = 0
        self._waiting_bytes = 0
        """Of `_own`; `_own_bytes` are those of what is in flight, too."""
        self._news = News()
        self._records: list[bytes] = []
        self._will_flush = False
        self._timer: asyncio.TimerHandle | None = None
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
            self._do(Orders(*frame))
        except Exception as error:  # noqa: BLE001 -- the link's callback would lose it: `run` raises it
            self._fail(error)

    def _do(self, orders: Orders) -> None:
        for lines in orders.lines:
            self._news.shaped.append([self._take(*line) for line in lines])
        for lines in orders.own_lines:
            self._take_own(lines)
        starts = iter(orders.starts)
        for send, sent_s in zip(starts, starts, strict=True):
            self._start(send, sent_s)
        for send, sent_s, history in orders.restarts:
            self._restart(send, sent_s, history)
        for send in orders.cancelled:
            if (task := self._tasks.get(send)) is not None:
                task.cancel()
        for number in orders.forgotten:  # after the starts: a twin may go in the turn in which the first is answered
            self._requests.pop(number, None)
        for number, index, connections in orders.warm_ups:
            task = self._loop.create_task(self._warm_up(number, index, connections))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        self._slots += orders.lent
        self._owed = min(self._owed + orders.asked, self._slots)
        self._give_back()
        self._unheard -= orders.heard
        self._is_halted = self._is_halted and self._unheard > 0
        if orders.recall:
            self._return_own()
        self._fill()
        if orders.lines or orders.own_lines or orders.asked or orders.recall or self._news.sent:
            self._flush_soon()

    def _take(self, *line: Any) -> tuple[Any, ...]:
        shaped = self._shape(*line)
        if isinstance(shaped, Failure):
            return shaped.error, shaped.line.id
        self._requests[shaped.number] = shaped
        return _measures(shaped)

    def _shape(self, number: int, key: str, text: bytes, size_bytes: int | None = None) -> Request | Failure:
        if size_bytes is not None:
            text = OversizedLine.of(text, key, size_bytes)
        return self._shaper.shape(number, key, text)

    def _take_own(self, lines: Sequence[Any]) -> None:
        self._news.taken += 1
        for line in lines:
            shaped = self._shape(*line)
            if isinstance(shaped, Failure):
                self._news.refused.append((line, shaped.error, shaped.line.id))
            elif shaped.deferred:
                self._requests[shaped.number] = shaped  # only the leader knows when nothing else is left
                self._news.returned.append((line, _measures(shaped)))
            else:
                self._own.append(shaped)
                self._own_bytes += len(shaped.text) + len(shaped.body)
                self._waiting_bytes += len(shaped.text) + len(shaped.body)

    def _return_own(self) -> None:
        for request in self._own:
            self._requests[request.number] = request
            self._own_bytes -= len(request.text) + len(request.body)
            self._news.returned.append((_line_of(request), _measures(request)))
        self._own.clear()
        self._waiting_bytes = 0

    def _give_back(self) -> None:
        slots = min(self._owed, self._slots - self._in_flight)
        self._owed -= slots
        self._slots -= slots
        self._news.given_back += slots

    def _fill(self) -> None:
        """Sends own lines as long as there are slots."""
        own = self._own
        while own and self._in_flight < self._slots and not self._owed and not self._is_halted:
            request = own.popleft()
            self._waiting_bytes -= len(request.text) + len(request.body)
            self._in_flight += 1
            self._news.sent += 1
            self._news.last_sent_s = request.sent_s = time.monotonic()
            if not self._channels[0].start(request):
                self._start_task(-request.number, 0, request)

    def _start(self, send: int, sent_s: float) -> None:
        number, index = divmod(send, len(self._channels))
        request = self._requests[number]
        if self._hedges:
            request = copy(request)  # it may be in flight twice
        request.sent_s = sent_s
        if self._hedges or not self._channels[index].start(request):
            self._start_task(send, index, request)

    def _restart(self, send: int, sent_s: float, history: tuple[int, int, bool]) -> None:
        request = self._requests[send // len(self._channels)]
        request.attempts, request.ambiguous_sends, request.resent = history
        self._start(send, sent_s)

    def _start_task(self, send: int, index: int, request: Request) -> None:
        task = self._tasks[send] = self._loop.create_task(self._carry(index, request))
        task.add_done_callback(partial(self._carried, send))

    async def _carry(self, index: int, request: Request) -> None:
        self._replied(index, request, await self._channels[index].send(request))

    def _carried(self, send: int, task: asyncio.Task[None]) -> None:
        del self._tasks[send]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _warm_up(self, call: int, index: int, connections: int) -> None:
        reply = await self._channels[index].warm_up(connections)
        self._news.results.append((call, None if reply is None else reply.detail))
        self._flush_soon()

    def _left_late(self, index: int, request: Request, is_fresh: bool) -> None:
        """It matters where there is a rate. One that is learned learns what it needs from what comes of it."""
        if self._has_rate and request.number in self._requests:
            self._news.late.append((request.number * len(self._channels) + index, is_fresh))
            self._flush_soon()

    def _fail(self, bug: BaseException) -> None:
        self._bug = bug
        self._gone.set()

    def _replied(self, index: int, request: Request, reply: Reply) -> None:
        try:
            is_own = request.number not in self._requests
            (self._end_own if is_own else self._report)(index, request, reply)
        except Exception as error:  # noqa: BLE001 -- the channel's callback would lose it: `run` raises it
            self._fail(error)

    def _report(self, index: int, request: Request, reply: Reply) -> None:
        send = request.number * len(self._channels) + index
        answer = None if self._hedges else judge(request, reply, 0.0)
        if not isinstance(answer, Answer):
            self._news.replies.append((send, *_whole(reply), _own(request)))
            self._flush_soon()
            return
        now = time.monotonic()
        record = self._render(index, request, reply, answer, now)
        del self._requests[request.number]
        usage = answer.finish_reason, answer.prompt_tokens, answer.completion_tokens
        headers = dict(reply.headers) if self._is_worth_hearing(index, now) else None
        self._news.answered.append((send, reply.latency_s, *usage, headers, record))
        self._flush_soon()

    def _end_own(self, index: int, request: Request, reply: Reply) -> None:
        news = self._news
        self._in_flight -= 1
        self._own_bytes -= len(request.text) + len(request.body)
        verdict = judge(request, reply, 0.0)
        if isinstance(verdict, Answer):
            now = time.monotonic()
            self._records.append(self._render(index, request, reply, verdict, now))
            latency_s = reply.latency_s
            news.latencies.append(latency_s)
            if latency_s >= SHORTEST_SERVICE_S:
                news.slow.append((request.sent_s, latency_s))
            if verdict.finish_reason in CUT_OFF_REASONS:
                news.flagged += 1
            if verdict.prompt_tokens is not None and verdict.completion_tokens is not None:
                news.prompt_tokens += verdict.prompt_tokens
                news.completion_tokens += verdict.completion_tokens
            news.last_answered_sent_s = max(news.last_answered_sent_s, request.sent_s)
            if self._is_worth_hearing(index, now):
                news.headers = dict(reply.headers)
        else:
            self._requests[request.number] = request
            self._unheard += 1
            self._slots -= 1
            self._owed = min(self._owed, self._slots)
            if verdict.action in HALTING and verdict.blame is not Blame.LINE:
                self._is_halted = True
            news.failed.append((_line_of(request), _measures(request), request.sent_s, *_whole(reply), _own(request)))
            self._flush_soon()
        if self._owed:
            self._give_back()
            self._flush_soon()
        elif self._own:
            self._fill()
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_S, self._flush)

    def _render(self, index: int, request: Request, reply: Reply, answer: Answer, now: float) -> bytes:
        reply.latency_s = now - request.sent_s
        request.attempts += 1
        return render(Success(request, answer, reply, self._names[index]), self._echo, self._body)

    def _is_worth_hearing(self, index: int, now: float) -> bool:
        if now < self._heard_s[index] + HEARING_INTERVAL_S:
            return False
        self._heard_s[index] = now
        return True

    def _flush_soon(self) -> None:
        """All that happens in one turn of the loop goes in one frame."""
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        news, self._news = self._news, News()
        news.records = b"".join(self._records)
        self._records.clear()
        news.in_flight = self._in_flight
        news.own_bytes = self._own_bytes
        news.waiting_bytes = self._waiting_bytes
        self._link.send(news.packed())


def _line_of(request: Request) -> tuple[Any, ...]:
    return request.number, request.key, request.text


def _measures(request: Request) -> tuple[int, int | None, bool]:
    """What the leader has to know of a request's size."""
    return len(request.body), request.max_tokens, request.deferred


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
