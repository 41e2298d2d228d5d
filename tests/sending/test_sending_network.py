"""What networks and servers do to a connection at any moment: a send ends as what it was, and the next one is well."""

import asyncio
import datetime
import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trustme

from llmblast.models import Answer, Cause
from llmblast.providers.rate_limit_headers import read_rate_limits
from tests.openai_provider import judge
from tests.sending.sending_wire import OpenChannel, Peer, Serve, a_reply, a_request, first, hop, says, settle

ANSWER = b'{"choices":[{"message":{"content":"four"}}]}'
A_MEGABYTE = 1024 * 1024
TOO_MUCH_HEAD = "the headers of the reply are too large and were cut off"


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_kept_connection_may_end_at_every_byte(serve: Serve, open_channel: OpenChannel, how: str) -> None:
    """Before the first one the server had closed it already; from then on it had the request; the next one is well."""
    whole = a_reply(ANSWER)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(whole)
        await peer.request()
        await peer.say(whole[:offset])
        if how == "rst":
            peer.reset()

    causes = []
    for offset in range(len(whole)):
        server = await serve(first(script, says(whole)))
        channel = open_channel(server.url)
        replies = [await channel.send(a_request()) for _ in range(3)]
        assert [reply.body for reply in replies] == [ANSWER, b"", ANSWER], offset
        causes.append(replies[1].cause)

    assert causes == [Cause.STALE] + [Cause.BROKEN] * (len(whole) - 1)


@pytest.mark.parametrize(
    "packets",
    [[], [b"H"], [b"HTTP/1.1 200 OK\r\nX-Slow: 1\r\n"], [b"HTTP/1.1 100 Continue\r\n\r\n"] * 3, [a_reply()[:-1]]],
    ids=["a black hole", "a letter", "half a head", "interim replies", "all but a byte"],
)
async def test_whatever_never_ends_is_ended_by_the_timeout(
    serve: Serve, open_channel: OpenChannel, packets: Sequence[bytes]
) -> None:
    """However much of the reply has come; the connection goes with it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*packets)
        await peer.stay()

    server = await serve(first(script, says(a_reply())))
    channel = open_channel(server.url, timeout_s=0.05)
    sending = asyncio.ensure_future(channel.send(a_request()))
    while not sending.done():
        await asyncio.wait([sending], timeout=0.01)
        channel.sweep(time.monotonic())
    next_reply = await channel.send(a_request())

    assert sending.result().cause is Cause.TIMED_OUT
    assert next_reply.status == 200


async def test_an_answer_before_the_request_was_all_sent(serve: Serve, open_channel: OpenChannel) -> None:
    """It counts; but what is left of the request would go ahead of the next one on the same connection."""
    large = b'{"q":"' + b"x" * (32 * A_MEGABYTE) + b'"}'

    async def hasty(peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say(a_reply(b'{"error":"too long"}', status="413 Content Too Large"))
        await peer._reader.readexactly(1)
        await asyncio.Event().wait()

    server = await serve(first(hasty, says(a_reply())))
    channel = open_channel(server.url)

    reply = await channel.send(a_request(large))
    next_reply = await asyncio.wait_for(channel.send(a_request()), timeout=5)

    assert (reply.status, next_reply.status) == (413, 200)
    assert [received.connection for received in server.received] == [2]


async def test_a_header_of_a_megabyte_is_cut_off(serve: Serve, open_channel: OpenChannel) -> None:
    """It would be the same at the next attempt."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nX-Large: " + b"x" * A_MEGABYTE)
        await peer.stay()

    server = await serve(first(script, says(a_reply())))
    channel = open_channel(server.url)

    reply, next_reply = await channel.send(a_request()), await channel.send(a_request())

    assert (reply.cause, reply.detail) == (Cause.TOO_LARGE, TOO_MUCH_HEAD)
    assert next_reply.status == 200


MANY_HEADERS = b"".join(b"a%d:b\r\n" % number for number in range(3000))


@pytest.mark.parametrize(
    "packets",
    [
        [b"HTTP/1.1 200 OK\r\n" + MANY_HEADERS],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + MANY_HEADERS],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 12,
    ],
    ids=["headers", "trailers", "interim replies"],
)
async def test_headers_without_end_are_cut_off(serve: Serve, open_lean: OpenChannel, packets: Sequence[bytes]) -> None:
    """Long before the cap of a reply: in memory they are forty times as large as on the wire."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*packets)
        await peer.stay()

    server = await serve(script)

    reply = await asyncio.wait_for(open_lean(server.url).send(a_request()), timeout=5)

    assert (reply.cause, reply.detail) == (Cause.TOO_LARGE, TOO_MUCH_HEAD)


async def test_http_to_a_tls_port_that_says_so(serve: Serve, open_lean: OpenChannel) -> None:
    """An alert in clear means that nothing was read as a request; aiohttp does not show it."""
    server = await serve(says(b"\x15\x03\x01\x00\x02\x02\x46"))

    reply = await open_lean(server.url).send(a_request())

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail == "the server speaks TLS: write its URL with https://"


async def test_http_to_a_tls_port(serve: Serve, open_channel: OpenChannel, server_tls: ssl.SSLContext) -> None:
    """Most servers just close; no request arrives."""
    server = await serve(says(a_reply()), tls=server_tls)

    reply = await open_channel(server.url).send(a_request())

    assert reply.cause in (Cause.BROKEN, Cause.NOT_SENT)
    assert server.received == []


def _yesterday() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


@pytest.mark.parametrize(
    ("host", "not_after", "problem"),
    [("localhost", _yesterday(), "expired"), ("gpu.example", None, "mismatch")],
    ids=["expired", "another host's"],
)
async def test_a_certificate_that_is_wrong(
    serve: Serve,
    open_channel: OpenChannel,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    not_after: datetime.datetime | None,
    problem: str,
) -> None:
    """Though who made it is trusted: nothing is sent, least of all the key, and the sentence says what is wrong."""
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert(host, not_after=not_after).configure_cert(theirs)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ours)
    server = await serve(says(a_reply()), tls=theirs)

    reply = await open_channel(f"https://localhost:{server.port}/v1").send(a_request())

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith(f"localhost:{server.port}: the TLS certificate cannot be verified: ")
    assert problem in reply.detail
    assert server.received == []


@pytest.mark.parametrize("junk", [b"\xff\xfe\xc3", b"\xed\xa0\x80", bytes(range(128, 256))])
async def test_bytes_that_are_no_text(serve: Serve, open_channel: OpenChannel, junk: bytes) -> None:
    """They harm nothing in headers; in the text of an error or of an answer they are replaced."""
    quoted = b"Retry-After: %b\r\nx-ratelimit-limit-requests: %b\r\nDate: %b\r\n" % (junk, junk, junk)
    head = b"HTTP/1.1 %b\r\n" + quoted + b"Content-Length: %d\r\n\r\n"
    ill_body = b'{"choices":[{"message":{"content":"%b"}}]}' % junk
    ill = head % (b"200 OK", len(ill_body)) + ill_body
    error = head % (b"503 Busy", len(junk)) + junk
    server = await serve(says(error))
    other = await serve(says(ill))

    replies = [await open_channel(place.url).send(a_request()) for place in (server, other)]

    verdicts = [judge(a_request(), reply, 0.0) for reply in replies]
    assert [isinstance(verdict, Answer) or verdict.code for verdict in verdicts] == ["http_503", True]
    assert [read_rate_limits(reply.headers.items(), 0.0) for reply in replies] == [[], []]


async def test_a_nul_in_a_header_breaks_the_reply(serve: Serve, open_channel: OpenChannel) -> None:
    """RFC 9110 section 5.5 has it refused or replaced; the next request is well."""
    server = await serve(first(says(a_reply(b"{}", "X-Evil: a\0b")), says(a_reply())))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [(reply.status, reply.cause) for reply in replies] == [(0, Cause.BROKEN), (200, None)]


async def test_a_connection_that_was_idle_for_long_is_closed(serve: Serve, open_lean: OpenChannel) -> None:
    """A router between may have forgotten it without a word; one that is in use does not age."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    now = time.monotonic()

    await channel.send(a_request())
    for second in range(60):
        channel.sweep(now + second)
    await channel.send(a_request())
    for second in range(60, 119):
        channel.sweep(now + second)
    await channel.send(a_request())
    for second in range(119, 180):
        channel.sweep(now + second)
    await settle()
    await channel.send(a_request())

    assert [received.connection for received in server.received] == [1, 1, 1, 2]


async def test_surplus_connections_are_closed_and_those_in_use_are_kept(serve: Serve, open_lean: OpenChannel) -> None:
    """After a crowd, one request after the other: the last connection used goes first."""
    gone = 0

    async def script(peer: Peer) -> None:
        nonlocal gone
        while await peer.request():
            await peer.say(a_reply())
        gone += 1

    server = await serve(script)
    channel = open_lean(server.url)
    now = time.monotonic()

    await asyncio.gather(*(channel.send(a_request()) for _ in range(5)))
    for second in range(62):
        channel.sweep(now + second)
        await channel.send(a_request())
    await settle()

    assert gone == 4
    assert len(server.peers) == 5


async def test_a_machine_that_slept_trusts_no_idle_connection(serve: Serve, open_lean: OpenChannel) -> None:
    """Its monotonic clock stood still, the wall clock did not; one that is set does no harm."""
    wall_s = 1e9
    server = await serve(says(a_reply()))
    channel = open_lean(server.url, wall_clock=lambda: wall_s)
    now = time.monotonic()

    channel.sweep(now)
    await channel.send(a_request())
    wall_s -= 86_400
    channel.sweep(now + 0.25)
    await channel.send(a_request())
    wall_s += 3600
    channel.sweep(now + 0.5)
    await settle()
    await channel.send(a_request())

    assert [received.connection for received in server.received] == [1, 1, 2]


async def test_a_process_that_was_stopped_reads_before_it_judges(serve: Serve, open_lean: OpenChannel) -> None:
    """Ctrl-Z for an hour: the reply may lie in the socket, paid for; what is still not there is ended a sweep later."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await answer.wait()
        await peer.say(a_reply())
        await peer.request()
        asked.set()
        await peer.stay()

    server = await serve(script)
    channel = open_lean(server.url, timeout_s=600)
    now = time.monotonic()
    sending = asyncio.ensure_future(channel.send(a_request()))
    await asked.wait()
    channel.sweep(now)
    answer.set()

    channel.sweep(now + 3600)
    reply = await sending
    asked.clear()
    sending = asyncio.ensure_future(channel.send(a_request()))
    await asked.wait()
    channel.sweep(now + 7200)
    await hop()
    is_spared = not sending.done()
    channel.sweep(now + 7200.25)

    assert reply.status == 200
    assert is_spared
    assert (await sending).cause is Cause.TIMED_OUT


async def test_whoever_resets_connections_at_once_is_no_surprise(open_channel: OpenChannel) -> None:
    """A balancer with nobody behind it: the reset may come at any moment, in the middle of opening too."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def reset_all() -> None:
        with suppress(OSError):  # it was shut down
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    resetting = asyncio.ensure_future(asyncio.to_thread(reset_all))
    channel = open_channel(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    replies = []
    try:
        for _ in range(10):
            replies += await asyncio.gather(*(channel.send(a_request()) for _ in range(60)))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        await resetting
        listener.close()

    assert {reply.cause for reply in replies} <= {Cause.NOT_SENT, Cause.BROKEN, Cause.STALE}


async def test_a_large_reply_takes_little_more_than_itself(serve: Serve, open_channel: OpenChannel) -> None:
    """Nearly the cap, in the pieces that the kernel hands over."""
    answer = os.urandom(4 * A_MEGABYTE).hex().encode()
    server = await serve(says(a_reply(answer)))

    reply = await open_channel(server.url, max_reply_bytes=9 * A_MEGABYTE).send(a_request())

    assert reply.body == answer
