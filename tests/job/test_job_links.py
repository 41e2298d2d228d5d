"""Links: what is said at one end is heard at the other, whole and in order, however the bytes come."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import chain, repeat
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.job.links import Link, frame_of, receive

HANG_S = 20
LARGE_BYTES = 8 * 1024 * 1024

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)
sizes = st.lists(st.integers(1, 64), min_size=1, max_size=20)


class End:
    """One end of a link, and what was heard there."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.lost = 0
        self.changed = asyncio.Event()
        self.link = Link(self._hear, self._lose)

    async def until_heard(self, count: int) -> None:
        async with asyncio.timeout(HANG_S):
            while len(self.heard) < count:
                self.changed.clear()
                await self.changed.wait()

    async def until_lost(self) -> None:
        async with asyncio.timeout(HANG_S):
            while not self.lost:
                self.changed.clear()
                await self.changed.wait()

    def _hear(self, value: Any) -> None:
        self.heard.append(value)
        self.changed.set()

    def _lose(self) -> None:
        self.lost += 1
        self.changed.set()


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    pair = End(), End()
    async with AsyncExitStack() as stack:
        for end, connected in zip(pair, socket.socketpair(), strict=True):
            await end.link.open(connected)
            stack.callback(end.link.close)
        yield pair


@settings(deadline=None)
@given(st.lists(values, max_size=10), sizes)
def test_whatever_is_sent_arrives_in_order_in_chunks_of_any_size(sent: list[Any], chunk_sizes: list[int]) -> None:
    """Through a real socket, from which pieces are read that know nothing of frames."""

    async def carry() -> list[Any]:
        ours, theirs = socket.socketpair()
        sender, receiver = Link(lambda value: None, lambda: None), End()
        with theirs:
            await sender.open(ours)
            for value in sent:
                sender.send(value)
            sender.close()
            theirs.setblocking(False)
            for size in chain.from_iterable(repeat(chunk_sizes)):
                if not (chunk := await asyncio.get_running_loop().sock_recv(theirs, size)):
                    return receiver.heard
                receiver.link.data_received(chunk)
        return receiver.heard

    assert asyncio.run(carry()) == sent


@settings(deadline=None)
@given(values)
def test_the_first_frame_can_be_waited_for_without_a_loop(value: Any) -> None:
    """And takes nothing of the next one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame_of(value) + frame_of("next"))

        assert (receive(theirs), receive(theirs)) == (value, "next")


@pytest.mark.parametrize("sent", [b"", frame_of("cut off")[:-1], frame_of("cut off")[:5]])
def test_an_end_without_a_whole_frame_is_told(sent: bytes) -> None:
    """Nobody waits for one that never comes."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(sent)
        ours.close()

        with pytest.raises(EOFError):
            receive(theirs)


async def test_large_frames_pass_both_ways_at_once(ends: tuple[End, End]) -> None:
    """Neither end waits until the other one has read."""
    large = bytes(range(256)) * (LARGE_BYTES // 256)
    for end in ends:
        for number in range(3):
            end.link.send((number, large))

    for end in ends:
        await end.until_heard(3)

    assert all(end.heard == [(number, large) for number in range(3)] for end in ends)


async def test_what_was_sent_before_the_end_is_heard(ends: tuple[End, End]) -> None:
    """Closing cuts nothing off; then the end is told, once."""
    closing, other = ends
    closing.link.send(bytes(LARGE_BYTES))
    closing.link.close()

    await other.until_lost()

    assert other.heard == [bytes(LARGE_BYTES)]
    assert (other.lost, closing.lost) == (1, 1)


async def test_nothing_happens_after_the_end(ends: tuple[End, End]) -> None:
    """Whoever has not heard of it yet may go on talking, and close."""
    gone, other = ends
    gone.link.close()
    await other.until_lost()

    other.link.send("anybody there?")
    other.link.close()
    await asyncio.sleep(0)

    assert (gone.heard, other.lost) == ([], 1)
