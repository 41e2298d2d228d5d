"""Connections are kept and used again, and no reply is ever taken for another request's."""

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientTimeout
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from llmblast.models import Cause, Reply
from llmblast.sending.connections import Connector
from llmblast.sending.direct import DirectConnector
from llmblast.sending.exchange import MAX_REPLY_BYTES, Exchange
from llmblast.sending.resolving import ProxyingConnector, ResolvingConnector, new_tcp_connector
from tests.sending.sending_wire import OpenChannel, Peer, Serve, a_reply, a_request, first, says, settle

OpenConnector = Callable[..., Connector]


class NoOwner:
    """Of exchanges that send nothing."""

    has_replied = False

    def on_free(self, exchange: Exchange) -> None: ...

    def on_lost(self, exchange: Exchange) -> None: ...


SECOND = a_reply(b'{"n":2}')
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

SPOKEN_OUT_OF_TURN = {
    "two replies at once": [a_reply() + a_reply(b'{"stolen":1}')],
    "a reply and the start of another one": [a_reply() + b"HTTP/1.1 200 OK\r\nContent-"],
    "a reply and the head of another one": [a_reply() + b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"],
    "a reply and one letter more": [a_reply() + b"H"],
    "a reply that is longer than its length": [a_reply() + b"garbage"],
    "a second reply while the connection is idle": [a_reply(), a_reply(b'{"stolen":1}')],
    "a good-bye while the connection is idle": [a_reply(), a_reply(b"", status="408 Request Timeout")],
}


async def test_requests_one_after_the_other_share_a_connection(serve: Serve, open_channel: OpenChannel) -> None:
    """Keep-alive."""
    server = await serve(says(a_reply()))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(5)]

    assert [reply.status for reply in replies] == [200] * 5
    assert [request.connection for request in server.received] == [1] * 5


async def test_requests_at_once_have_a_connection_each(serve: Serve, open_channel: OpenChannel) -> None:
    """Nothing is pipelined; afterwards those connections are enough."""
    server = await serve(says(a_reply()))
    channel = open_channel(server.url)

    for _ in range(2):
        await asyncio.gather(*(channel.send(a_request()) for _ in range(5)))

    assert sorted(request.connection for request in server.received) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


async def test_each_reply_goes_to_its_request(serve: Serve, open_channel: OpenChannel) -> None:
    """Twenty requests at once on kept connections, each answered with its own body."""

    async def echo(peer: Peer) -> None:
        while await peer.request():
            await peer.say(a_reply(peer.requests[-1].body))

    server = await serve(echo)
    channel = open_channel(server.url)
    bodies = [b'{"n":%d}' % number for number in range(20)]

    for _ in range(3):
        replies = await asyncio.gather(*(channel.send(a_request(body)) for body in bodies))

        assert [reply.body for reply in replies] == bodies
    assert len(server.peers) == 20


async def babble(peer: Peer, packets: Sequence[bytes]) -> None:
    """Answers one request with more than a reply, and the second one with the rest of the surplus."""
    await peer.request()
    await peer.say(*packets)
    await peer.request()
    await peer.say(b"Length: 12\r\n\r\n" + b'{"stolen":1}')
    await peer.stay()


@pytest.mark.parametrize("packets", SPOKEN_OUT_OF_TURN.values(), ids=SPOKEN_OUT_OF_TURN)
async def test_what_nobody_asked_for_is_dropped_with_its_connection(
    serve: Serve, open_lean: OpenChannel, packets: Sequence[bytes]
) -> None:
    """RFC 9112 section 9.2: the request's own reply counts, the next request takes a fresh connection."""
    server = await serve(first(lambda peer: babble(peer, packets), says(SECOND)))
    channel = open_lean(server.url)

    reply = await channel.send(a_request())
    await settle()
    next_reply = await channel.send(a_request())

    assert (reply.status, reply.body, len(reply.headers)) == (200, b'{"ok":1}', 1)
    assert next_reply.body == b'{"n":2}'
    assert [request.connection for request in server.received] == [1, 2]


@pytest.mark.parametrize("packets", SPOKEN_OUT_OF_TURN.values(), ids=SPOKEN_OUT_OF_TURN)
async def test_what_nobody_asked_for_answers_no_request(
    serve: Serve, open_channel: OpenChannel, packets: Sequence[bytes]
) -> None:
    """At worst a send ends as broken, as with aiohttp's parser when a reply is longer than it said."""
    server = await serve(first(lambda peer: babble(peer, packets), says(SECOND)))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request())]
    await settle()
    replies += [await channel.send(a_request()) for _ in range(2)]

    assert not any(b"stolen" in reply.body for reply in replies)
    assert not any(reply.status == 408 for reply in replies)
    assert replies[-1].body == b'{"n":2}'


async def test_the_connection_in_place_of_a_dropped_one_is_fresh(serve: Serve, open_channel: OpenChannel) -> None:
    """So when it ends before a byte, the request may have been paid for: broken, not stale."""

    async def ends(peer: Peer) -> None:
        await peer.request()

    server = await serve(first(lambda peer: babble(peer, [a_reply(), a_reply(b"{}")]), ends))
    channel = open_channel(server.url)
    await channel.send(a_request())
    await settle()

    reply = await channel.send(a_request())

    assert (reply.cause, reply.detail) == (Cause.BROKEN, "the connection broke before a reply came")


async def test_a_chunked_reply_leaves_nothing_behind_for_the_next_one(serve: Serve, open_channel: OpenChannel) -> None:
    """Trailers belong to the reply that they end, and the connection is kept."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"2\r\n{}\r\n0\r\nRetry-After: 60\r\n\r\n")
        await peer.request()
        await peer.say(SECOND)

    server = await serve(script)
    channel = open_channel(server.url)

    await channel.send(a_request())
    reply = await channel.send(a_request())

    assert reply.body == b'{"n":2}'
    assert reply.header(b"retry-after") is None
    assert len(server.peers) == 1


async def test_a_connection_that_was_closed_while_idle_is_not_used(serve: Serve, open_channel: OpenChannel) -> None:
    """The server's FIN was seen in time: the next request goes out on a fresh connection without further ado."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())

    server = await serve(script)
    channel = open_channel(server.url)

    await channel.send(a_request())
    await settle()
    reply = await channel.send(a_request())

    assert reply.status == 200
    assert [request.connection for request in server.received] == [1, 2]


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(
    "first_reply",
    [a_reply(), b"HTTP/1.1 204 No Content\r\n\r\n", CHUNKED + b"0\r\n\r\n"],
    ids=["200", "204", "chunked"],
)
async def test_a_kept_connection_that_ends_before_a_byte_is_stale(
    serve: Serve, open_channel: OpenChannel, first_reply: bytes, how: str
) -> None:
    """The server closed it while the request was on its way; nothing of the earlier reply is taken for this one's."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(first_reply)
        await peer.request()
        if how == "rst":
            peer.reset()

    server = await serve(script)
    channel = open_channel(server.url)

    await channel.send(a_request())
    reply = await channel.send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.STALE)
    assert reply.detail == "the server had closed the keep-alive connection"


@pytest.mark.parametrize("packet", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n", a_reply()[:-1]])
async def test_a_kept_connection_that_ends_after_a_byte_is_broken(
    serve: Serve, open_channel: OpenChannel, packet: bytes
) -> None:
    """The server had begun to answer, so it had the request: sending it again may cost twice."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        await peer.request()
        await peer.say(packet)

    server = await serve(script)
    channel = open_channel(server.url)

    await channel.send(a_request())
    reply = await channel.send(a_request())

    assert (reply.cause, reply.detail) == (Cause.BROKEN, "the connection broke in the middle of the reply")


async def test_an_interim_reply_is_a_byte_too(serve: Serve, open_lean: OpenChannel) -> None:
    """A kept connection that ends after 100 Continue was no stale one; aiohttp does not tell."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        await peer.request()
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")

    server = await serve(script)
    channel = open_lean(server.url)

    await channel.send(a_request())
    reply = await channel.send(a_request())

    assert reply.cause is Cause.BROKEN


async def test_a_resent_request_takes_a_fresh_connection(serve: Serve, open_lean: OpenChannel) -> None:
    """A second stale connection in a row would not be told from a broken one."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)

    await channel.send(a_request())
    await channel.send(a_request(resent=True))

    assert [request.connection for request in server.received] == [1, 2]


async def test_a_cancelled_send_closes_its_connection_and_harms_no_other(
    serve: Serve, open_channel: OpenChannel
) -> None:
    """The reply that comes too late is nobody's."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        await peer.request()
        await peer.say(a_reply(b'{"too late":1}')[:20])
        asked.set()
        await peer.stay()
        gone.set()

    server = await serve(first(script, says(SECOND)))
    channel = open_channel(server.url)
    await channel.send(a_request())

    sending = asyncio.ensure_future(channel.send(a_request()))
    await asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.wait_for(gone.wait(), timeout=5)
    reply = await channel.send(a_request())

    assert reply.body == b'{"n":2}'
    assert [request.connection for request in server.received] == [1, 1, 2]


async def test_a_send_that_is_cancelled_while_it_connects_leaves_nothing_open(
    serve: Serve, open_channel: OpenChannel
) -> None:
    """Closing the channel then finds nothing to wait for."""
    server = await serve(says(a_reply()))
    channel = open_channel(server.url)

    sending = asyncio.ensure_future(channel.send(a_request()))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    reply = await channel.send(a_request())

    assert reply.status == 200


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
async def test_closing_with_idle_connections_is_quick_and_leaves_nothing_behind(
    serve: Serve, open_channel: OpenChannel, server_tls: ssl.SSLContext, is_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unclosed sockets would show as ResourceWarning, which fails the test."""
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl._create_unverified_context())
    server = await serve(says(a_reply()), tls=server_tls if is_tls else None)
    channel = open_channel(server.url.replace("http", "https") if is_tls else server.url)
    replies = await asyncio.gather(*(channel.send(a_request()) for _ in range(8)))

    await asyncio.wait_for(channel.close(), timeout=1)
    await settle()
    gc.collect()

    assert [reply.status for reply in replies] == [200] * 8


@pytest.fixture(params=[DirectConnector, ResolvingConnector])
def open_connector(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenConnector:
    """Both ways to open a connection, whatever the URL would choose."""

    def start(url: str, connect_timeout_s: float = 10.0) -> Connector:
        connector: Connector = request.param(URL(url), connect_timeout_s, MAX_REPLY_BYTES)
        stack.push_async_callback(connector.close)
        return connector

    return start


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_connection_can_be_opened_as_soon_as_somebody_listens(
    open_connector: OpenConnector, free_port: int, host: str
) -> None:
    """A refusal names the place, and is not remembered."""
    connector = open_connector(f"http://{host}:{free_port}/v1")

    refused = await connector.open(NoOwner())
    with socket.create_server(("127.0.0.1", free_port)):
        opened = await connector.open(NoOwner())
    refused_again = await connector.open(NoOwner())

    assert isinstance(opened, Exchange)
    opened.close()
    for reply in (refused, refused_again):
        assert isinstance(reply, Reply)
        assert reply.cause is Cause.NOT_SENT
        assert reply.detail == f"{host}:{free_port}: connection refused: is the server running?"


async def test_a_peer_that_is_gone_without_a_word_is_noticed(serve: Serve, open_connector: OpenConnector) -> None:
    """The kernel asks after a minute of silence, and gives up on what nobody acknowledges."""
    server = await serve(says(a_reply()))

    opened = await open_connector(server.url).open(NoOwner())
    assert isinstance(opened, Exchange)
    its_socket: socket.socket = opened._transport.get_extra_info("socket")
    is_kept_alive = its_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    first_s = its_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    opened.close()

    assert is_kept_alive
    assert first_s == 60


async def test_an_opening_that_is_cancelled_at_any_moment_leaves_nothing_open(
    serve: Serve, open_connector: OpenConnector
) -> None:
    """The server sees the end of each connection that came about; an unclosed socket would fail the test, too."""
    ended = []

    async def script(peer: Peer) -> None:
        await peer.stay()
        ended.append(peer)

    server = await serve(script)
    connector = open_connector(server.url)
    for turns in range(30):
        opening = asyncio.ensure_future(connector.open(NoOwner()))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        (opened,) = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(opened, Exchange):
            opened.close()
    last = await connector.open(NoOwner())
    assert isinstance(last, Exchange)
    last.close()
    await connector.close()
    gc.collect()
    for _ in range(500):
        if server.peers and len(ended) == len(server.peers):
            break
        await asyncio.sleep(0.01)

    assert len(ended) == len(server.peers) > 0


async def test_a_connection_that_is_lost_before_it_is_handed_over(serve: Serve) -> None:
    """Nothing was written on it, so nothing was sent."""

    class Hasty(ProxyingConnector):
        async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
            connection = await super().connect(req, traces, timeout)
            assert connection.transport is not None
            connection.transport.close()
            return connection

    server = await serve(says(a_reply()))
    connector = ResolvingConnector(URL(server.url), 10, MAX_REPLY_BYTES)
    await connector.close()
    connector._connector = Hasty()

    opened = await connector.open(NoOwner())
    await connector.close()

    assert isinstance(opened, Reply)
    assert (opened.cause, opened.detail) == (Cause.NOT_SENT, f"127.0.0.1:{server.port} closed the connection at once")
    assert server.received == []


async def test_a_direct_connection_that_is_lost_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the loop opens it."""
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def connect_and_lose(*arguments: Any) -> tuple[asyncio.Transport, asyncio.Protocol]:
        transport, protocol = await connect(*arguments)
        transport.close()
        return transport, protocol

    server = await serve(says(a_reply()))
    monkeypatch.setattr(loop, "create_connection", connect_and_lose)

    opened = await DirectConnector(URL(server.url), 10, MAX_REPLY_BYTES).open(NoOwner())
    await settle()

    assert isinstance(opened, Reply)
    assert (opened.cause, opened.detail) == (Cause.NOT_SENT, f"127.0.0.1:{server.port} closed the connection at once")


def _listening(address: str, port: int) -> socket.socket:
    if address == "127.0.0.1":
        return socket.create_server((address, port))
    try:
        return socket.create_server((address, port), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize("before", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("now", ["127.0.0.1", "::1"])
async def test_the_machine_itself_is_tried_at_both_its_addresses(free_port: int, before: str, now: str) -> None:
    """Most servers listen at one of them only. Which one it was is forgotten when it does not answer any more."""
    connector = DirectConnector(URL(f"http://localhost:{free_port}"), 10, MAX_REPLY_BYTES)
    peers = []

    for address in (before, now):
        with _listening(address, free_port):
            for _ in range(2):
                opened = await connector.open(NoOwner())
                assert isinstance(opened, Exchange)
                peers.append(opened._transport.get_extra_info("peername")[0])
                opened.close()
        assert isinstance(await connector.open(NoOwner()), Reply)

    assert peers == [before, before, now, now]


async def test_closing_ends_what_is_under_way_as_broken(serve: Serve, open_lean: OpenChannel) -> None:
    """Even on a kept connection and without a length: it was our side that broke it off."""
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n{")
        asked.set()
        await peer.stay()

    server = await serve(script)
    channel = open_lean(server.url)
    await channel.send(a_request())
    sending = asyncio.ensure_future(channel.send(a_request()))
    await asked.wait()

    await channel.close()

    assert (await sending).cause is Cause.BROKEN


async def test_aiohttp_still_hands_its_connections_over(serve: Serve) -> None:
    """The contract that resolving.py has with the one minor version of aiohttp that pyproject.toml allows."""
    server = await serve(says(a_reply()))
    loop = asyncio.get_running_loop()
    connector = new_tcp_connector()
    received = loop.create_future()

    class Lean(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.set_result(data)

    try:
        request = ClientRequest("POST", URL(server.url), loop=loop)
        connection = await connector.connect(request, [], ClientTimeout(connect=5, sock_connect=5))
        handler, transport = connection.protocol, connection.transport
        assert handler is not None
        assert transport is not None
        transport.set_protocol(Lean())
        transport.write(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        answer = await asyncio.wait_for(received, timeout=5)
        transport.abort()
        handler.connection_lost(None)
        connection.close()
        await asyncio.wait_for(connector.close(), timeout=5)
    except (TypeError, AttributeError, AssertionError, TimeoutError) as error:
        pytest.fail(
            f"aiohttp {aiohttp.__version__} no longer hands a connection over as llmblast/sending/resolving.py "
            f"takes it ({error!r}): keep the older minor version in pyproject.toml, or change `ResolvingConnector`."
        )

    assert answer == a_reply()
