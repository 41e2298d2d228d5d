"""Faults on the wire, as a client that somebody else wrote sees them: the right answer in odd HTTP, or a break."""

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from llmblast.mocking import fault_wires
from llmblast.mocking.answers import Answer
from llmblast.mocking.fault_wires import BOMB_BYTES, LARGE_REPLY_BYTES, WIRES
from llmblast.mocking.incident import Incident
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from tests.mock_replies import meaning

BODY = b'{"messages":[{"role":"user","content":"Count the ships"}]}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
FAULTY_ONCE = "requests = [1]"
HOLD_THE_ANSWER = [
    "slow-headers",
    "slow-body",
    "chunked-trailers",
    "gzip",
    "deflate",
    "zstd",
    "continue-first",
    "early-hints",
    "close-after",
    "stale",
    "http10",
    "duplicate",
]
HOLD_NONE = [
    "drip",
    "endless-body",
    "large-headers",
    "truncated",
    "length-too-small",
    "bad-length",
    "broken-chunk",
    "bad-chunk-size",
    "closed",
    "closed-in-headers",
    "reset",
    "reset-in-body",
    "black-hole",
    "garbage",
    "tls",
    "restart",
]


def faulty(tmp_path: Path, kind: str, rule: str = "", query: str = "latency=0") -> MockServer:
    path = tmp_path / "faults.toml"
    path.write_text(f'[[fault]]\nkind = "{kind}"\n{rule}\n')
    return MockServer(MockSettings.from_query(f"{query}&faults={path}"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        yield session


async def post(session: aiohttp.ClientSession, server: MockServer) -> tuple[int, bytes]:
    async with session.post(f"{server.url}/chat/completions", data=BODY) as response:
        return response.status, await response.read()


async def ask(session: aiohttp.ClientSession, server: MockServer) -> tuple[int, object]:
    """The status and what the reply says."""
    status, body = await post(session, server)
    return status, meaning(body)


async def dial(server: MockServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(server.url)
    return await asyncio.open_connection(url.hostname, url.port)


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.partition(b"Content-Length: ")[2].split(b"\r\n", 1)[0])
    return await reader.readexactly(size)


@pytest.mark.parametrize("kind", HOLD_THE_ANSWER)
async def test_odd_http_holds_the_right_answer(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    """A client that keeps to the protocol gets what it would have got without the fault."""
    async with MockServer(MockSettings(latency=0)) as sound, faulty(tmp_path, kind) as server:
        assert await ask(session, server) == await ask(session, sound)


@pytest.mark.parametrize("kind", ["gzip", "chunked-trailers", "slow-body", "http10"])
async def test_odd_http_names_the_request(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    """As every other reply does."""
    async with (
        faulty(tmp_path, kind) as server,
        session.post(f"{server.url}/chat/completions", data=BODY) as response,
    ):
        assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("kind", HOLD_NONE)
async def test_broken_http_holds_none(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    """No client can take it for an answer, and the server goes on."""
    async with faulty(tmp_path, kind, FAULTY_ONCE) as server:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await post(session, server)
        if kind != "restart":
            assert (await post(session, server))[0] == 200


@pytest.mark.parametrize("kind", ["gzip", "chunked-trailers", "duplicate"])
async def test_the_connection_is_kept_after_an_odd_reply(tmp_path: Path, kind: str) -> None:
    """The next request on it is answered."""
    async with faulty(tmp_path, kind, FAULTY_ONCE) as server:
        reader, writer = await dial(server)
        writer.write(REQUEST)
        await reader.readuntil(b"HTTP/1.1 200 OK")
        writer.write(REQUEST)
        await reader.readuntil(b"Server: ")  # aiohttp's own replies say so
        writer.close()
        await writer.wait_closed()

    assert server.received == 2


async def test_only_a_kept_connection_is_stale(tmp_path: Path) -> None:
    """The first request on it is answered, the second one sees it closed before a byte came."""
    async with faulty(tmp_path, "stale") as server:
        reader, writer = await dial(server)
        writer.write(REQUEST)
        first = await read_reply(reader)
        writer.write(REQUEST)
        second = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert b"ships" in first
    assert second == b""


async def test_a_drip_holds_the_answer_in_the_end(tmp_path: Path) -> None:
    """For a client that has the time."""
    async with (
        MockServer(MockSettings(latency=0)) as sound,
        faulty(tmp_path, "drip", "seconds = 0.1") as server,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
    ):
        assert await ask(session, server) == await ask(session, sound)


def test_a_drip_is_one_byte_at_a_time() -> None:
    """With a pause before each; all of them together last as long as the rule says."""
    steps = list(WIRES["drip"](Incident(Answer(b"{}"), 0.0, seconds=30)).steps or ())
    pauses = [step for step in steps[::2] if isinstance(step, float)]

    assert {len(step) for step in steps[1::2] if isinstance(step, bytes)} == {1}
    assert len(pauses) * 2 == len(steps)
    assert sum(pauses) == pytest.approx(30)


async def test_a_reset_is_a_reset(tmp_path: Path) -> None:
    """Not a tidy end."""
    async with faulty(tmp_path, "reset") as server:
        reader, writer = await dial(server)
        writer.write(REQUEST)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_restart_refuses_connections_for_a_time(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Those that are open are closed, the other requests on them break, and then all is well again."""
    other = '[[fault]]\nkind = "black-hole"\nrequests = [1]'
    async with faulty(tmp_path, "restart", f"requests = [2]\nseconds = 0.2\n{other}") as server:
        waiting = asyncio.ensure_future(post(session, server))
        while not server.in_flight:  # noqa: ASYNC110 -- the server has no event for this
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(waiting, post(session, server), return_exceptions=True)
        port = urlsplit(server.url).port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port or 0))
        async with asyncio.timeout(10):
            while True:
                try:
                    status, _ = await post(session, server)
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.02)

    assert [type(outcome) for outcome in outcomes] == [aiohttp.ServerDisconnectedError] * 2
    assert status == 200


async def test_a_server_that_is_down_can_be_closed(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """It does not come back afterwards."""
    async with faulty(tmp_path, "restart", "seconds = 0.05") as server:
        with pytest.raises(aiohttp.ClientError):
            await post(session, server)
    await asyncio.sleep(0.1)

    with pytest.raises(aiohttp.ClientConnectorError):
        await post(session, server)


async def test_a_black_hole_ends_when_the_client_has_gone(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """It counts as in flight until then."""
    async with faulty(tmp_path, "black-hole") as server:
        pending = asyncio.ensure_future(post(session, server))
        while not server.in_flight:  # noqa: ASYNC110 -- the server has no event for this
            await asyncio.sleep(0)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        async with asyncio.timeout(10):
            while server.in_flight:  # noqa: ASYNC110 -- see above
                await asyncio.sleep(0.01)

    assert server.received == 1


def test_the_bomb_is_as_large_as_it_says() -> None:
    """A valid gzip member of blanks, a thousandth of its size."""
    packed = fault_wires._gzip_of_blanks()
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    size, left = 0, packed
    while left:
        size += len(unpacker.decompress(left, 1024 * 1024))
        left = unpacker.unconsumed_tail

    assert unpacker.eof
    assert size == BOMB_BYTES
    assert len(packed) < BOMB_BYTES / 500


def test_the_large_reply_is_larger_than_the_cap() -> None:
    """By one byte, and it is never held as a whole."""
    reply = WIRES["large-reply"](Incident(Answer(b"{}"), 0.0))
    head, *pieces = [step for step in reply.steps or () if isinstance(step, bytes)]

    assert b"Content-Length: %d\r\n" % (LARGE_REPLY_BYTES + 1) in head
    assert sum(map(len, pieces)) == LARGE_REPLY_BYTES + 1
    assert max(map(len, pieces)) == 1024 * 1024


def test_every_fault_on_the_wire_is_looked_at_here() -> None:
    """A new one belongs into one of the lists."""
    assert set(WIRES) == {*HOLD_THE_ANSWER, *HOLD_NONE, "bomb", "large-reply"}
