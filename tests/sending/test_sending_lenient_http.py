"""Both transports take the odd framings that RFC 9112 lets a client take, and refuse those whose end is in doubt."""

import pytest

from llmblast.models import Cause
from llmblast.sending.lenient_http import ReplyRewriter, UnreadableHttpError
from tests.sending.sending_wire import OpenChannel, Peer, Serve, a_reply, a_request, first, says

OK = b'{"ok":1}'
CHUNKS = b"8\r\n" + OK + b"\r\n0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", b""])


LENGTH = b"Content-Length: 8"
TAKEN = {
    "bare LF": head(LENGTH).replace(b"\r\n", b"\n") + OK,
    "CRLF and bare LF": head(LENGTH).replace(b"OK\r\n", b"OK\n") + OK,
    "no reason phrase and no space": head(LENGTH, status=b"HTTP/1.1 200") + OK,
    "a reason phrase that is no ASCII": head(LENGTH, status="HTTP/1.1 200 ÖK\x01".encode()) + OK,
    "spaces in the status line": head(LENGTH, status=b"HTTP/1.1  200   OK") + OK,
    "lower case": head(LENGTH.lower(), status=b"http/1.1 200 ok") + OK,
    "HTTP/1.2": head(LENGTH, status=b"HTTP/1.2 200 OK") + OK,
    "line ends in front": b"\r\n\n" + head(LENGTH.lower(), status=b"http/1.1 200 ok") + OK,
    "a header of 100 KB": head(b"X-Large: " + b"x" * 100_000, LENGTH) + OK,
    "100 KB of headers": head(*[b"X-%d: " % number + b"x" * 1000 for number in range(100)], LENGTH) + OK,
    "a length and chunks at once": head(LENGTH, b"Transfer-Encoding: chunked") + CHUNKS,
    "chunks and a wrong length": head(b"Transfer-Encoding: chunked", b"Content-Length: 99") + CHUNKS,
    "chunked twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + CHUNKS,
    "identity and a length": head(b"Transfer-Encoding: identity", LENGTH) + OK,
    "the same length twice": head(LENGTH, LENGTH) + OK,
    "the same length in a list": head(b"Content-Length: 8, 8") + OK,
    "a control character": head(b"Set-Cookie: a=\x01b\x7f", LENGTH) + OK,
    "bytes that are no ASCII": head("X-Name: Ö\xff".encode("latin-1"), LENGTH) + OK,
    "a header over two lines": head(b"X-Long: a", b"\t b", LENGTH) + OK,
    "white space before the colon": head(b"X-Odd : a", b"Content-Length\t: 8") + OK,
    "names that are none": head(b"X Odd: a", b": b", "X-Ö: c".encode(), LENGTH) + OK,
    "an interim reply in front": b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + head(LENGTH, LENGTH) + OK,
    "extensions, trailers, leading zeros": CHUNKED + b'0008;a="b";c\r\n' + OK + b"\r\n000;x\r\nX-Trailer: 1\r\n\r\n",
    "an extension with spaces": CHUNKED + b'8 ; a="b c" ;d\r\n' + OK + b"\r\n0\r\n\r\n",
    "spaces around the size of a chunk": CHUNKED + b" 8 \r\n" + OK + b"\r\n0 \r\n\r\n",
    "sizes in capitals": CHUNKED + b"A\r\n" + OK + b"  \r\n0\r\n\r\n",
    "chunks with bare LF": CHUNKED + (b"3\n" + OK[:3] + b"\n5\n" + OK[3:] + b"\n0\n\n"),
    "bare LF everywhere": CHUNKED.replace(b"\r\n", b"\n") + b"8\n" + OK + b"\n0\nX-Trailer: 1\n\n",
}
TAKEN_IN_PIECES = {name: reply for name, reply in TAKEN.items() if len(reply) < 1000}
REFUSED = {
    "different lengths": (head(LENGTH, b"Content-Length: 9") + OK, "several different Content-Lengths"),
    "different lengths in a list": (head(b"Content-Length: 8, 9") + OK, "several different Content-Lengths"),
    "a length with a sign": (head(b"Content-Length: +8") + OK, "its Content-Length is not a number"),
    "no length in the length": (head(b"Content-Length:") + OK, "its Content-Length is not a number"),
    "another coding": (head(b"Transfer-Encoding: gzip", LENGTH) + OK, "its Transfer-Encoding is not chunked"),
    "a line without a colon": (head(b"garbage", LENGTH) + OK, "a line of its headers has no colon"),
    "a NUL": (head(b"X-Evil: a\0b", b"X: \x01", LENGTH) + OK, "NUL"),
    "no status": (head(LENGTH, status=b"HTTP/1.1 OK") + OK, "its status line is not HTTP/1.1"),
    "HTTP/3": (head(LENGTH, status=b"HTTP/3 200") + OK, "its status line is not HTTP/1.1"),
    "a status of four digits": (head(LENGTH, status=b"HTTP/1.1 2000 OK") + OK, "its status line is not HTTP/1.1"),
    "another protocol": (b"PROTO 7 is ready\r\n", "it does not begin with a status line"),
    "a size that is no number": (CHUNKED + b"zz\r\n" + OK, "the size of a chunk is not a number"),
    "a size in C": (CHUNKED + b"0x8\r\n" + OK, "the size of a chunk is not a number"),
    "a chunk that is too long": (CHUNKED + b"7\r\n" + OK + b"\r\n0\r\n\r\n", "a chunk is longer than its size says"),
}


@pytest.mark.parametrize("packet", TAKEN.values(), ids=TAKEN)
async def test_an_odd_framing_is_taken(serve: Serve, open_channel: OpenChannel, packet: bytes) -> None:
    """As curl takes it; the next request is well."""
    server = await serve(says(packet))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [(reply.status, reply.body.rstrip(), reply.detail) for reply in replies] == [(200, OK, "")] * 2


@pytest.mark.parametrize("packet", TAKEN_IN_PIECES.values(), ids=TAKEN_IN_PIECES)
async def test_it_may_come_byte_by_byte(serve: Serve, open_lean: OpenChannel, packet: bytes) -> None:
    """Wherever a packet ends."""
    server = await serve(says(*[bytes([byte]) for byte in packet]))

    reply = await open_lean(server.url).send(a_request())

    assert (reply.status, reply.body.rstrip(), reply.detail) == (200, OK, "")


async def test_a_head_may_come_byte_by_byte(serve: Serve, open_channel: OpenChannel) -> None:
    """By either transport."""
    packet = b"HTTP/1.1 103 Hints\r\n\r\n" + head(b"X: \x01", LENGTH, LENGTH)
    server = await serve(says(*[bytes([byte]) for byte in packet], OK[:4], OK[4:]))

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.body, reply.detail) == (200, OK, "")
    assert reply.header(b"x") == b""


@pytest.mark.parametrize(("packet", "detail"), REFUSED.values(), ids=REFUSED)
async def test_a_framing_in_doubt_is_refused(
    serve: Serve, open_channel: OpenChannel, packet: bytes, detail: str
) -> None:
    """It says why, and the next request takes another connection."""
    server = await serve(first(says(packet), says(a_reply())))
    channel = open_channel(server.url)

    reply, next_reply = await channel.send(a_request()), await channel.send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.BROKEN)
    assert reply.detail.startswith("the reply is not HTTP/1.1: ")
    assert detail in reply.detail
    assert (next_reply.status, next_reply.body) == (200, OK)
    assert [request.connection for request in server.received] == [1, 2]


@pytest.mark.parametrize(
    "name", ["a length and chunks at once", "the same length twice", "white space before the colon"]
)
async def test_a_connection_whose_framing_was_doubtful_ends(serve: Serve, open_channel: OpenChannel, name: str) -> None:
    """RFC 9112 section 6.3: another reader may have taken the rest for a reply of its own."""
    server = await serve(says(TAKEN[name]))
    channel = open_channel(server.url)

    for _ in range(3):
        await channel.send(a_request())

    assert [request.connection for request in server.received] == [1, 2, 3]


@pytest.mark.parametrize("name", ["no reason phrase and no space", "bare LF", "a header of 100 KB"])
async def test_a_connection_whose_framing_was_clear_is_kept(serve: Serve, open_channel: OpenChannel, name: str) -> None:
    """Odd, but there is one way to read it."""
    server = await serve(says(TAKEN[name]))
    channel = open_channel(server.url)

    for _ in range(3):
        await channel.send(a_request())

    assert [request.connection for request in server.received] == [1, 1, 1]


async def test_http_1_0_may_keep_its_connection(serve: Serve, open_channel: OpenChannel) -> None:
    """If it says so."""
    kept = head(b"Connection: keep-alive", LENGTH, status=b"HTTP/1.0 200 OK") + OK
    server = await serve(says(kept))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [reply.body for reply in replies] == [OK, OK]
    assert [request.connection for request in server.received] == [1, 1]


async def test_a_rewritten_reply_may_end_with_its_connection(serve: Serve, open_channel: OpenChannel) -> None:
    """Without a length, as any other."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(head(b"X: \x01", status=b"HTTP/1.0 200 OK"), OK[:3], OK[3:])

    server = await serve(script)

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.body, reply.detail) == (200, OK, "")


async def test_a_length_beyond_all_numbers_ends_with_the_connection(serve: Serve, open_channel: OpenChannel) -> None:
    """As curl has it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(head(b"Content-Length: " + b"9" * 30) + OK)

    server = await serve(script)

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.body, reply.detail) == (200, OK, "")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_reply_that_has_no_body_has_none(serve: Serve, open_channel: OpenChannel, status: bytes) -> None:
    """Whatever its length says: RFC 9112 section 6.3."""
    server = await serve(says(head(LENGTH, b"X: \x01", status=b"HTTP/1.1 " + status)))

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.body, reply.detail) == (int(status[:3]), b"", "")


def test_a_line_without_end_is_refused() -> None:
    """An extension must not fill the memory."""
    rewriter = ReplyRewriter()
    rewriter.feed(CHUNKED + b"8;")

    with pytest.raises(UnreadableHttpError, match="has no end"):
        rewriter.feed(b"x" * 100_000)
