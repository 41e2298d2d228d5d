"""Hands: a leader's side of one worker, with what it is to do next and what it has under way."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import Any, NamedTuple, Protocol

import orjson

from llmblast.job.frames import News, Orders
from llmblast.job.intake import TextLine
from llmblast.job.links import Link, frame_of
from llmblast.reading import BAD_LINE, OversizedLine
from llmblast.records import Answer, Cause, Failure, Line, Reply, Request
from llmblast.sending import Channel

_NO_HEADERS: Mapping[bytes, bytes] = {}
_MEASURES = ("body_bytes", "max_tokens", "deferred")
"""What a worker tells of a request; of a line that is none, two words."""

Done = Callable[[Request, Reply], None]


class Forked(NamedTuple):
    """A worker's process and our end of the socket to it."""

    pid: int
    connected: socket


class Leader(Protocol):
    """Who has to know what a hand hears."""

    @property
    def channels(self) -> Sequence[Channel]:
        """One for each endpoint."""

    def heard(self, hand: "Hand", news: News) -> None:
        """A worker's word of its own lines."""

    def lost(self, hand: "Hand") -> None:
        """A worker's process is gone."""

    def fail(self, bug: BaseException) -> None:
        """A defect of ours."""


@dataclass(slots=True, eq=False)
class Assigned(Request):
    """A request of which the leader knows the line only: its body is in the process of `hand`."""

    hand: "Hand | None" = None
    is_known: bool = False
    """Whether its worker has told what a record needs of it: it does with the first reply."""


class Hand:
    """One worker: what it is to do next, and what it has under way. What is told in one turn of the loop goes in one
    frame.
    """

    def __init__(self, forked: Forked, leader: Leader) -> None:
        self.pid = forked.pid
        self.lines = 0
        """How many it has that have not come to their end."""
        self.own_lines = 0
        """Of these, those on its own account, with as many in flight and as many bytes as it last told."""
        self.own_in_flight = 0
        self.own_bytes = 0
        self.slots = 0
        """Lent to it; `asked` of them it is to give back."""
        self.asked = 0
        self.sent: dict[int, tuple[Request, Done]] = {}
        self._connected = forked.connected
        self._leader = leader
        self._link = Link(self._hear, partial(leader.lost, self))
        self._shaping: deque[tuple[Sequence[TextLine], asyncio.Future[Sequence[Request | Failure]]]] = deque()
        self._calls: dict[int, asyncio.Future[str | None]] = {}
        self._loop = asyncio.get_running_loop()
        self._orders = Orders()
        self._will_flush = False
        self._is_abandoned = False
        self._told_waiting_bytes = 0
        self._untold_bytes: deque[int] = deque()

    @property
    def untold(self) -> int:
        """Slices of its own lines that it has not told of: nobody knows yet what they have become."""
        return len(self._untold_bytes)

    @property
    def waiting_bytes(self) -> int:
        """Of its own lines that it has not sent, those on their way to it included."""
        return self._told_waiting_bytes + sum(self._untold_bytes)

    @property
    def free_slots(self) -> int:
        """Lent to it, and neither asked back nor taken by its own lines."""
        return max(self.slots - self.asked - self.own_lines, 0)

    @property
    def is_half_idle(self) -> bool:
        """Whether it has at least as many slots that are free as others."""
        return 0 < self.free_slots * 2 >= self.slots

    async def open(self, places: Sequence[tuple[str, str | None]]) -> None:
        """Tells the worker the URL and the key of each endpoint; it begins with that."""
        with suppress(OSError):  # it is gone already, which the link tells
            self._connected.sendall(frame_of(places))
        await self._link.open(self._connected)

    def shape(self, lines: Sequence[TextLine]) -> asyncio.Future[Sequence[Request | Failure]]:
        """Hands over lines, and what will have become of them, in their order."""
        shaped: asyncio.Future[Sequence[Request | Failure]] = self._loop.create_future()
        self._shaping.append((lines, shaped))
        self.lines += len(lines)
        self._flush_soon().lines.append(_packed(lines))
        return shaped

    def give(self, lines: Sequence[TextLine]) -> None:
        """Hands over lines that it is to send on its own account."""
        self.lines += len(lines)
        self.own_lines += len(lines)
        self._untold_bytes.append(sum(len(text) for _, _, text in lines))
        self._flush_soon().own_lines.append(_packed(lines))

    def start(self, send: int, request: Request, done: Done) -> None:
        """`done` gets the request and its reply."""
        self.sent[send] = request, done
        orders = self._flush_soon()
        if request.failed_on or request.hedged:
            history = request.attempts, request.ambiguous_sends, request.resent
            orders.restarts.append((send, request.sent_s, history))
        else:
            orders.starts += (send, request.sent_s)

    def cancel(self, send: int) -> None:
        """Nobody waits for its reply any more."""
        if self.sent.pop(send, None) is not None:
            self._flush_soon().cancelled.append(send)

    def forget(self, request: Request) -> None:
        """The line has come to its end."""
        self.lines -= 1
        self._flush_soon().forgotten.append(request.number)

    def warm_up(self, index: int, connections: int) -> asyncio.Future[str | None]:
        """Why no connection to an endpoint could be opened, if none could."""
        number = len(self._calls)
        self._flush_soon().warm_ups.append((number, index, connections))
        return self._calls.setdefault(number, self._loop.create_future())

    def lend(self, slots: int) -> None:
        """More slots, which the scheduler has paid for."""
        self.slots += slots
        self._flush_soon().lent += slots

    def ask_back(self, slots: int) -> None:
        """It gives so many back as they become free."""
        self.asked += slots
        self._flush_soon().asked += slots

    def call_in(self) -> None:
        """It gives all slots back, and the lines that it has not sent."""
        self.ask_back(self.slots - self.asked)
        self._flush_soon().recall = True

    def got_back(self, slots: int) -> None:
        """It has given back what it was asked for."""
        self.slots -= slots
        self.asked -= slots

    def lost_slot(self) -> None:
        """One came back with a line that was not answered."""
        self.slots -= 1
        orders = self._flush_soon()
        if self.asked > self.slots:
            self.asked = self.slots
            orders.asked = max(orders.asked - 1, 0)  # it has not heard of those yet, and takes one off what it has
        orders.heard += 1

    def abandon(self) -> None:
        """Nobody waits for any reply any more."""
        self._is_abandoned = True
        self.sent.clear()
        self.slots = self.asked = self.own_lines = self.own_in_flight = 0

    def break_off(self, why: str) -> None:
        """It is gone, and with it whatever it had sent."""
        sent, self.sent = self.sent, {}
        for request, done in sent.values():
            done(request, Reply(cause=Cause.BROKEN, detail=why))

    async def end(self) -> None:
        """Ends the process, which has nothing that could be lost. Returns when it is gone."""
        self._link.close()
        os.kill(self.pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, self.pid, 0)

    def assign(self, line: Sequence[Any], measures: Sequence[Any]) -> "Assigned":
        """The request that the worker made of a line."""
        number, key, text, *_ = line
        body_bytes, max_tokens, deferred = measures
        return Assigned(
            number,
            key,
            text,
            number,
            body_bytes=body_bytes,
            max_tokens=max_tokens,
            deferred=deferred,
            hand=self,
        )

    def reply_of(self, request: Request, parts: Sequence[Any]) -> Reply:
        """What the worker handed over as it is, and to the request what a verdict and a record need of the line."""
        status, headers, body, cause, detail, own = parts
        assert isinstance(request, Assigned)
        request.is_known = True
        request.path, request.needs_model, request.output_format, request.id, request.extra, is_json, shown = own
        request.input = orjson.Fragment(shown) if is_json else shown
        return Reply(status, headers, body, None if cause is None else Cause[cause], detail)

    def _flush_soon(self) -> Orders:
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush)
        return self._orders

    def _flush(self) -> None:
        self._will_flush = False
        orders, self._orders = self._orders, Orders()
        self._link.send(orders.packed())

    def _hear(self, frame: Any) -> None:
        try:
            self._take_in(News(*frame))
        except Exception as error:  # noqa: BLE001 -- the link's callback would lose it
            self._leader.fail(error)

    def _take_in(self, news: News) -> None:
        for entries in news.shaped:
            lines, future = self._shaping.popleft()
            if not future.done():
                future.set_result([self._shaped(line, entry) for line, entry in zip(lines, entries, strict=True)])
        for number, detail in news.results:
            if not (call := self._calls[number]).done():
                call.set_result(detail)
        channels = self._leader.channels
        for send, is_fresh in news.late:
            if (under_way := self.sent.get(send)) is not None:
                channels[send % len(channels)].on_late(under_way[0], is_fresh)
        for send, latency_s, finish_reason, prompt_tokens, completion_tokens, headers, record in news.answered:
            if (under_way := self.sent.pop(send, None)) is not None:
                request, done = under_way
                self.lines -= 1
                answer = Answer(None, finish_reason, None, prompt_tokens, completion_tokens)
                done(request, Reply(200, headers or _NO_HEADERS, b"", None, "", latency_s, answer, record))
        for send, *parts in news.replies:
            if (under_way := self.sent.pop(send, None)) is not None:
                request, done = under_way
                done(request, self.reply_of(request, parts))
        self.own_bytes, self._told_waiting_bytes = news.own_bytes, news.waiting_bytes
        for _ in range(news.taken):
            self._untold_bytes.popleft()
        if not self._is_abandoned:
            self.own_in_flight = news.in_flight
            self._leader.heard(self, news)

    def _shaped(self, line: TextLine, entry: Sequence[Any]) -> Request | Failure:
        if len(entry) == len(_MEASURES):
            return self.assign(line, entry)
        self.lines -= 1
        number, key, text = line
        message, name = entry
        return Failure(Line(number, key, bytes(text), name), message, BAD_LINE)


def _packed(lines: Sequence[TextLine]) -> list[tuple[Any, ...]]:
    return [line if type(line[2]) is bytes else _oversized(*line) for line in lines]


def _oversized(number: int, key: str, text: bytes) -> tuple[Any, ...]:
    return number, key, bytes(text), text.size_bytes if isinstance(text, OversizedLine) else None
