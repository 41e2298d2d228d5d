"""Both transports read every legal framing of a reply, and say of every broken one what became of it."""

import asyncio
from collections.abc import Sequence

import pytest

from llmblast.models import Cause
from tests.sending.sending_wire import OpenChannel, Peer, Serve, a_reply, a_request, first, says, settle

WELL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b'{"ok":1}'

WHOLE = {
    "content-length": ([WELL + OK], 200, OK),
    "head and body in two packets": ([WELL, OK], 200, OK),
    "a body in pieces": ([WELL + OK[:3], OK[3:5], OK[5:]], 200, OK),
    "a header split over packets": ([WELL[:30], WELL[30:41], WELL[41:] + OK], 200, OK),
    "every byte in a packet of its own": ([bytes([byte]) for byte in WELL + OK], 200, OK),
    "chunked": ([CHUNKED + b'3\r\n{"o\r\n5\r\nk":1}\r\n0\r\n\r\n'], 200, OK),
    "chunked, torn inside a chunk's size": ([CHUNKED + b"0000000", b"8\r", b"\n" + OK + b"\r\n0\r\n\r\n"], 200, OK),
    "chunked with extensions and trailers": (
        [CHUNKED + b"8;x=y\r\n" + OK + b"\r\n0\r\nDigest: none\r\n\r\n"],
        200,
        OK,
    ),
    "100 Continue first": ([b"HTTP/1.1 100 Continue\r\n\r\n", WELL + OK], 200, OK),
    "100 Continue in the same packet": ([b"HTTP/1.1 100 Continue\r\n\r\n" + WELL + OK], 200, OK),
    "103 Early Hints first": ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", WELL + OK], 200, OK),
    "HTTP/1.0 of known length": ([b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n" + OK], 200, OK),
    "no reason phrase": ([b"HTTP/1.1 200 \r\nContent-Length: 8\r\n\r\n" + OK], 200, OK),
    "header names in capitals": ([b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 8\r\n\r\n" + OK], 200, OK),
    "an offer to upgrade": (
        [b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 8\r\n\r\n" + OK],
        200,
        OK,
    ),
    "204 without a body": ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
    "an error of known length": ([b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"], 500, b"oops"),
    "an empty body": ([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"], 502, b""),
}
ENDED_BY_CLOSING = {
    "no length": ([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + OK], 200, OK),
    "no length, in pieces": ([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", OK[:4], OK[4:]], 200, OK),
    "HTTP/1.0 without length": ([b"HTTP/1.0 200 OK\r\n\r\n" + OK], 200, OK),
    "neither length nor Connection: close": ([b"HTTP/1.1 200 OK\r\n\r\n" + OK], 200, OK),
    "a coding that says nothing": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n" + OK], 200, OK),
    "no length and no body": ([b"HTTP/1.0 503 Service Unavailable\r\n\r\n"], 503, b""),
    "a length and Connection: close": (
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\n" + OK],
        200,
        OK,
    ),
}
STREAM = b'data: {"ok":1}\n\ndata: [DONE]\n\n'
WITHOUT_END = {
    "no last chunk": (CHUNKED + b"8\r\n" + OK + b"\r\n", OK),
    "a last chunk without its line ends": (CHUNKED + b"8\r\n" + OK + b"\r\n0", OK),
    "no empty line behind the last chunk": (CHUNKED + b"8\r\n" + OK + b"\r\n0\r\n", OK),
    "a length that is too large": (WELL.replace(b"8", b"11") + OK + b"\n", OK + b"\n"),
    "a stream": (CHUNKED + b"%x\r\n%b\r\n" % (len(STREAM), STREAM), STREAM),
    "an error": (WELL.replace(b"200 OK", b"500 Oops").replace(b"8", b"11") + OK, OK),
}
"""The framing says that more was to come, the body says that this is all."""
BROKEN = {
    "closed before a byte": ([], "before a reply came"),
    "closed in the status line": ([b"HTTP/1."], "in the middle of the reply"),
    "closed in the headers": ([b"HTTP/1.1 200 OK\r\nContent-Le"], "in the middle of the reply"),
    "closed before the last byte of a known length": ([WELL + OK[:-1]], "in the middle of the reply"),
    "closed between two chunks": ([CHUNKED + b"7\r\n" + OK[:-1] + b"\r\n"], "in the middle of the reply"),
    "text that is no JSON, without its last chunk": ([CHUNKED + b"4\r\nbusy\r\n"], "in the middle of the reply"),
    "closed inside a chunk": ([CHUNKED + b"8\r\n" + OK[:3]], "in the middle of the reply"),
    "an unknown protocol": ([b"HELLO 1.0 ready\r\n"], "not HTTP/1.1"),
    "a length that is no number": ([b"HTTP/1.1 200 OK\r\nContent-Length: eight\r\n\r\n" + OK], "not HTTP/1.1"),
    "a negative length": ([b"HTTP/1.1 200 OK\r\nContent-Length: -8\r\n\r\n" + OK], "not HTTP/1.1"),
    "two lengths": ([b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Length: 9\r\n\r\n" + OK], "not HTTP/1.1"),
    "a chunk size that is no number": ([CHUNKED + b"zz\r\n" + OK], "not HTTP/1.1"),
}


@pytest.mark.parametrize(("packets", "status", "body"), WHOLE.values(), ids=WHOLE)
async def test_a_whole_reply_is_read_while_the_connection_stays_open(
    serve: Serve, open_channel: OpenChannel, packets: Sequence[bytes], status: int, body: bytes
) -> None:
    """The reply's own framing says where it ends, the connection need not."""
    server = await serve(says(*packets))

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.body, reply.cause) == (status, body, None)


@pytest.mark.parametrize(("packets", "status", "body"), ENDED_BY_CLOSING.values(), ids=ENDED_BY_CLOSING)
async def test_a_reply_may_end_with_its_connection(
    serve: Serve, open_channel: OpenChannel, packets: Sequence[bytes], status: int, body: bytes
) -> None:
    """Without a length the end of the connection is the end of the body, and the connection is not used again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*packets)

    server = await serve(script)
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [(reply.status, reply.body, reply.cause) for reply in replies] == [(status, body, None)] * 2
    assert [request.connection for request in server.received] == [1, 2]


@pytest.mark.parametrize(("packets", "detail"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_reply_is_told_and_harms_no_other(
    serve: Serve, open_channel: OpenChannel, packets: Sequence[bytes], detail: str
) -> None:
    """It may have been paid for, so it is BROKEN rather than NOT_SENT; the next request takes a fresh connection."""

    async def broken(peer: Peer) -> None:
        await peer.request()
        await peer.say(*packets)

    server = await serve(first(broken, says(a_reply())))
    channel = open_channel(server.url)

    reply = await channel.send(a_request())
    next_reply = await channel.send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.BROKEN)
    assert detail in reply.detail
    assert (next_reply.status, next_reply.body) == (200, OK)
    assert [request.connection for request in server.received] == [1, 2]


@pytest.mark.parametrize("ending", ["closed", "reset", "silent"])
@pytest.mark.parametrize(("packet", "body"), WITHOUT_END.values(), ids=WITHOUT_END)
async def test_whole_json_is_taken_although_its_framing_has_no_end(
    serve: Serve, open_channel: OpenChannel, packet: bytes, body: bytes, ending: str
) -> None:
    """It has been paid for, and curl prints it. The connection is not used again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(packet)
        if ending == "reset":
            peer.reset()
        elif ending == "silent":
            await settle()
            channel.sweep(asyncio.get_running_loop().time() + 31.0)
            await peer.stay()

    server = await serve(script)
    channel = open_channel(server.url, timeout_s=30.0)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [(reply.body, reply.cause, reply.detail) for reply in replies] == [(body, None, "")] * 2
    assert [request.connection for request in server.received] == [1, 2]


async def test_a_reset_before_a_byte_is_broken(serve: Serve, open_channel: OpenChannel) -> None:
    """RST instead of FIN makes no difference."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    server = await serve(script)

    reply = await open_channel(server.url).send(a_request())

    assert (reply.cause, reply.detail) == (Cause.BROKEN, "the connection broke before a reply came")


async def test_a_reset_in_the_middle_is_broken_even_without_a_length(serve: Serve, open_lean: OpenChannel) -> None:
    """Only an orderly end of the connection completes a reply that names no length; aiohttp takes any end for it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n" + OK[:-1])
        peer.reset()

    server = await serve(script)

    reply = await open_lean(server.url).send(a_request())

    assert (reply.cause, reply.detail) == (Cause.BROKEN, "the connection broke in the middle of the reply")


async def test_an_interim_reply_is_no_reply(serve: Serve, open_channel: OpenChannel) -> None:
    """100 Continue and then the end of the connection: nothing was answered."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")

    server = await serve(script)

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.BROKEN)


async def test_a_server_that_closes_right_after_accepting_is_no_answer(serve: Serve, open_channel: OpenChannel) -> None:
    """Whether the request still left depends on who was faster; it never raises and never hangs."""

    async def script(peer: Peer) -> None:
        peer.reset()

    server = await serve(script)

    reply = await open_channel(server.url).send(a_request())

    assert reply.cause in (Cause.NOT_SENT, Cause.BROKEN)


async def test_a_switch_to_another_protocol_is_no_reply(serve: Serve, open_lean: OpenChannel) -> None:
    """Nobody asked for one; aiohttp hands 101 on as the reply, which fails the line as well."""
    packet = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nPRI"
    server = await serve(says(packet))

    reply = await open_lean(server.url).send(a_request())

    assert reply.cause is Cause.BROKEN
    assert "switched to another protocol" in reply.detail
