"""What is sent without a task: `start` and `abandon` of the lean transport."""

import asyncio
import time
from dataclasses import dataclass

import pytest

from llmblast.models import Attempt, Cause, Reply
from llmblast.sending import NO_LISTENER, ChannelListener
from tests.sending.sending_wire import BODY, OpenChannel, Peer, Serve, a_reply, a_request, hop, says
from tests.sending.test_sending_connections import SPOKEN_OUT_OF_TURN


@dataclass
class Told:
    """What a listener was told."""

    attempt: Attempt
    reply: Reply


class Ear:
    """Keeps what a listener is told, and waits for the next word."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Told] = asyncio.Queue()
        self.listener = ChannelListener(on_reply=self._on_reply)

    def _on_reply(self, attempt: Attempt, reply: Reply) -> None:
        self.heard.put_nowait(Told(attempt, reply))

    async def next(self) -> Told:
        return await asyncio.wait_for(self.heard.get(), 5)


async def test_a_started_request_goes_on_a_kept_connection(serve: Serve, open_lean: OpenChannel) -> None:
    """Each gets its own reply; without a connection nothing is started."""

    async def echo(peer: Peer) -> None:
        while await peer.request():
            await peer.say(a_reply(peer.requests[-1].body))

    server = await serve(echo)
    channel = open_lean(server.url)
    ear = Ear()
    requests = [a_request(b'{"n":%d}' % number) for number in range(3)]

    at_first = channel.start(requests[0], ear.listener)
    await channel.send(requests[0])
    started = [channel.start(request, ear.listener) for request in requests[1:]]
    told = await ear.next()
    later = channel.start(requests[2], ear.listener)

    assert (at_first, started, later) == (False, [True, False], True)
    assert told == Told(requests[1], told.reply)
    assert told.reply.body == requests[1].request.body
    assert (await ear.next()).reply.body == requests[2].request.body
    assert len(server.peers) == 1


async def test_what_met_a_stale_connection_is_not_started_on_another_one(serve: Serve, open_lean: OpenChannel) -> None:
    """It goes on a fresh one, which takes a task."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    await channel.send(a_request())
    request = a_request()
    request.resent = True

    assert not channel.start(request, NO_LISTENER)


@pytest.mark.parametrize("packet", [packets[0] for packets in SPOKEN_OUT_OF_TURN.values() if len(packets) == 1])
async def test_the_next_one_never_gets_what_followed_a_reply(
    serve: Serve, open_lean: OpenChannel, packet: bytes
) -> None:
    """Not even if it is started at the very moment when the reply comes."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.say(packet if len(peer.requests) == 2 else a_reply(b'{"mine":1}'))

    server = await serve(script)
    channel = open_lean(server.url)
    heard: list[Reply] = []
    asked_again = asyncio.Event()

    def ask_again(attempt: Attempt, reply: Reply) -> None:
        heard.append(reply)
        if len(heard) == 1:
            channel.start(a_request(), listener)
        asked_again.set()

    listener = ChannelListener(on_reply=ask_again)
    await channel.send(a_request())
    assert channel.start(a_request(), listener)
    await asyncio.wait_for(asked_again.wait(), 5)
    await hop()

    assert heard[0].body == b'{"ok":1}'
    assert all(reply.body == b'{"mine":1}' or reply.cause is not None for reply in heard[1:])


async def test_what_is_abandoned_ends_without_a_word(serve: Serve, open_lean: OpenChannel) -> None:
    """Its connection is closed, a kept one that is idle is not."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request():
            if peer.requests[-1].body == b"{}":
                await peer.stay()
                gone.set()
                return
            await peer.say(a_reply())

    server = await serve(script)
    channel = open_lean(server.url)
    ear = Ear()
    await asyncio.gather(channel.send(a_request()), channel.send(a_request()))
    assert channel.start(a_request(b"{}"), ear.listener)

    channel.abandon()
    await asyncio.wait_for(gone.wait(), 5)
    assert channel.start(a_request(BODY), ear.listener)

    assert (await ear.next()).reply.status == 200
    assert ear.heard.empty()
    assert len(server.peers) == 2


async def test_a_started_request_runs_out_of_time(serve: Serve, open_lean: OpenChannel) -> None:
    """From its admission on; the sweep tells of it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        await peer.stay()

    server = await serve(script)
    channel = open_lean(server.url, 5.0)
    ear = Ear()
    await channel.send(a_request())
    request = a_request()
    request.sent_s = time.monotonic()
    channel.sweep(request.sent_s)
    assert channel.start(request, ear.listener)

    channel.sweep(request.sent_s + 4.9)
    in_time = ear.heard.empty()
    channel.sweep(request.sent_s + 5.1)

    assert in_time
    assert (await ear.next()).reply.cause is Cause.TIMED_OUT


async def test_what_is_sent_on_as_another_runs_out_of_time_has_its_own(serve: Serve, open_lean: OpenChannel) -> None:
    """Idle connections that are closed at the same look are no longer there for it."""
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        while await peer.request():
            if peer.requests[-1].body == b"{}":
                asked.set()
                await peer.stay()
                return
            await peer.say(a_reply())

    server = await serve(script)
    channel = open_lean(server.url, 5.0)
    heard: list[Reply] = []
    started: list[bool] = []

    def start_another(attempt: Attempt, reply: Reply) -> None:
        heard.append(reply)
        started.append(channel.start(a_request(), listener))

    listener = ChannelListener(on_reply=start_another)
    await asyncio.gather(*(channel.send(a_request()) for _ in range(12)))
    now = time.monotonic()
    channel.sweep(now)
    for _ in range(6):
        request = a_request(b"{}")
        request.sent_s = now + 56
        assert channel.start(request, listener)
    await asked.wait()

    for elapsed_s in (4.5, 9.0, 13.5, 18, 22.5, 27, 31.5, 36, 40.5, 45, 49.5, 54, 58.5, 61):
        channel.sweep(now + elapsed_s)
    await hop()

    assert [reply.cause for reply in heard] == [Cause.TIMED_OUT] * 6
    assert started == [False] * 6
