"""Long replies share one budget of memory: some wait, none is lost, and one of them always goes on."""

import asyncio
from random import Random

import pytest

from llmblast.models import Cause
from llmblast.sending import reply_budget
from llmblast.sending.reply_budget import UNCOUNTED_BYTES, ReplyBudget
from tests.sending.sending_wire import OpenChannel, Peer, Serve, a_reply, a_request

MIB = 1024 * 1024
LONG = UNCOUNTED_BYTES * 4
ENDLESS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


class FakeReply:
    """Reads a packet when it is asked to, and not while it is paused."""

    def __init__(self, budget: ReplyBudget) -> None:
        self.is_paused = False
        self.size = 0
        self._budget = budget

    def read(self, size_bytes: int) -> None:
        assert not self.is_paused
        self.size += size_bytes
        self._budget.grow(self, size_bytes)

    def end(self) -> None:
        self._budget.release(self)

    def pause(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume(self) -> None:
        assert self.is_paused
        self.is_paused = False


def replies_of(budget: ReplyBudget, count: int) -> list[FakeReply]:
    return [FakeReply(budget) for _ in range(count)]


def test_all_go_on_while_there_is_room() -> None:
    """A quarter of the budget is kept for one whole reply."""
    budget = ReplyBudget(4 * MIB)
    replies = replies_of(budget, 3)

    for reply in replies:
        reply.read(MIB)

    assert not any(reply.is_paused for reply in replies)
    assert budget.used_bytes == 3 * MIB


def test_only_the_longest_goes_on_when_the_budget_is_full() -> None:
    """It is the one that ends first, or comes to its cap first."""
    budget = ReplyBudget(4 * MIB)
    short, longest, late = replies_of(budget, 3)
    short.read(MIB)
    longest.read(2 * MIB)

    late.read(100)

    assert [reply.is_paused for reply in (short, longest, late)] == [True, False, True]


def test_when_it_ends_others_go_on() -> None:
    """There is room again for all of them."""
    budget = ReplyBudget(4 * MIB)
    short, longest, late = replies_of(budget, 3)
    short.read(MIB)
    longest.read(2 * MIB)
    late.read(100)

    longest.end()

    assert not short.is_paused
    assert budget.used_bytes == MIB + 100


def test_when_one_that_waits_is_given_up_nothing_hangs() -> None:
    """A reply may time out while it is paused."""
    budget = ReplyBudget(4 * MIB)
    short, longest, late = replies_of(budget, 3)
    short.read(MIB)
    longest.read(2 * MIB)
    late.read(100)

    short.end()
    longest.end()
    late.end()

    assert budget.used_bytes == 0


def test_one_always_goes_on_and_all_come_to_their_end() -> None:
    """Whatever the order: the budget is kept but for one packet of each, and everything is given back."""
    random = Random(7)
    budget = ReplyBudget(20 * MIB)
    replies = replies_of(budget, 50)
    most = 0
    while replies:
        reading = [reply for reply in replies if not reply.is_paused]
        assert reading
        reply = random.choice(reading)
        reply.read(random.randrange(1, MIB // 4))
        most = max(most, budget.used_bytes)
        if reply.size > 5 * MIB - MIB // 4:
            reply.end()
            replies.remove(reply)

    assert budget.used_bytes == 0
    assert most <= 20 * MIB + 50 * MIB // 4


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_budget, "MAX_BUFFERED_BYTES", 4 * LONG)


@pytest.mark.usefixtures("small_budget")
async def test_more_than_the_budget_comes_whole(serve: Serve, open_channel: OpenChannel) -> None:
    """Replies wait for one another, and are not cut off."""
    body = b'"' + b"x" * (LONG - 1000) + b'"'

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply(body))

    server = await serve(script)
    channel = open_channel(server.url)

    replies = await asyncio.gather(*(channel.send(a_request()) for _ in range(20)))

    assert [(reply.status, len(reply.body)) for reply in replies] == [(200, len(body))] * 20
    assert reply_budget.reply_budget().used_bytes == 0


@pytest.mark.usefixtures("small_budget")
async def test_endless_replies_are_cut_off_one_after_the_other(serve: Serve, open_channel: OpenChannel) -> None:
    """Each at its own cap; a short reply passes them meanwhile, and what they held is given back."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number > 10:
            await peer.say(a_reply())
            return
        await peer.say(ENDLESS)
        try:
            while True:
                await peer.say(b"x" * 10_000)
        except ConnectionError:
            return

    server = await serve(script)
    channel = open_channel(server.url, max_reply_bytes=LONG)

    endless = [asyncio.ensure_future(channel.send(a_request())) for _ in range(10)]
    while len(server.received) < 10:  # noqa: ASYNC110 -- the loop itself is what makes it true
        await asyncio.sleep(0)
    short = await channel.send(a_request())
    replies = await asyncio.gather(*endless)

    assert short.status == 200
    assert [reply.cause for reply in replies] == [Cause.TOO_LARGE] * 10
    assert reply_budget.reply_budget().used_bytes == 0


@pytest.mark.usefixtures("small_budget")
async def test_a_paused_reply_that_is_cancelled_gives_back_what_it_held(
    serve: Serve, open_channel: OpenChannel
) -> None:
    """The others go on."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(ENDLESS, b"x" * (LONG // 2))
        await peer.stay()

    server = await serve(script)
    channel = open_channel(server.url, max_reply_bytes=LONG)
    sends = [asyncio.ensure_future(channel.send(a_request())) for _ in range(8)]
    budget = reply_budget.reply_budget()
    while budget.used_bytes <= 2 * LONG:  # noqa: ASYNC110 -- the loop itself is what makes it true
        await asyncio.sleep(0)

    for send in sends:
        send.cancel()
    await asyncio.gather(*sends, return_exceptions=True)

    assert budget.used_bytes == 0
