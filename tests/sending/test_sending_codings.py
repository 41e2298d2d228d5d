"""Replies that a server compressed unasked: taken off within the cap on both transports, and what cannot be is told."""

import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from llmblast.models import Answer, Cause, Reply
from llmblast.sending import Action
from llmblast.sending.codings import without_coding
from tests.openai_provider import judge
from tests.sending.sending_wire import OpenChannel, Serve, a_reply, a_request, says

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ANSWER = b'{"choices":[{"message":{"content":"four"}}]}'
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00note"
"""A skippable frame: RFC 8878 section 3.1.2."""
A_MEGABYTE = 1024 * 1024
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def a_wide_frame(window_log: int) -> bytes:
    """A zstd frame that wants a window of so many bits, and does not say how long it is."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return packer.compress(ANSWER) + packer.flush()


READABLE = {
    "gzip": ("gzip", gzip.compress(ANSWER)),
    "gzip, in capitals": ("GZIP", gzip.compress(ANSWER)),
    "its old name": ("x-gzip", gzip.compress(ANSWER)),
    "gzip in two members": ("gzip", gzip.compress(ANSWER[:9]) + gzip.compress(ANSWER[9:])),
    "gzip with an empty member": ("gzip", gzip.compress(ANSWER) + gzip.compress(b"")),
    "deflate": ("deflate", zlib.compress(ANSWER)),
    "deflate without its wrapping": ("deflate", bare_deflate(ANSWER)),
    "zstd": ("zstd", zstd.compress(ANSWER)),
    "zstd in two frames": ("zstd", zstd.compress(ANSWER[:9]) + zstd.compress(ANSWER[9:])),
    "zstd behind a skippable frame": ("zstd", SKIPPED + zstd.compress(ANSWER)),
    "zstd with the widest window": ("zstd", a_wide_frame(23)),
    "identity": ("identity", ANSWER),
    "identity and gzip": ("identity, gzip", gzip.compress(ANSWER)),
    "an empty name": ("", ANSWER),
    "gzip that is none": ("gzip", ANSWER),
    "gzip cut off in its checksum": ("gzip", gzip.compress(ANSWER)[:-1]),
    "gzip without its checksum": ("gzip", gzip.compress(ANSWER)[:-8]),
    "gzip and padding": ("gzip", gzip.compress(ANSWER) + b"\0" * 16),
    "gzip and something else": ("gzip", gzip.compress(ANSWER) + b"garbage"),
    "zstd and padding": ("zstd", zstd.compress(ANSWER) + b"\0" * 16),
    "deflate cut off in its checksum": ("deflate", zlib.compress(ANSWER)[:-1]),
    "gzip in gzip": ("gzip, gzip", gzip.compress(gzip.compress(ANSWER))),
    "gzip in deflate": ("gzip, deflate", zlib.compress(gzip.compress(ANSWER))),
    "gzip in gzip that is packed once": ("gzip, gzip", gzip.compress(ANSWER)),
}
TEXTS = {
    "gzip that is a page": ("gzip", b"<html>"),
    "deflate that is a page": ("deflate", b"<html>"),
    "zstd that is a page": ("zstd", b"<html>"),
    "gzip that begins with a line end": ("gzip", b"\n" + ANSWER),
    "a charset for a coding": ("utf-8", b"\n" + ANSWER),
    "a stream of no coding": ("none", b"data: {}\n\ndata: [DONE]\n\n"),
}
"""Under the name of a coding that they do not have."""
UNREADABLE = {
    "deflate cut off in its data": (
        "deflate",
        zlib.compress(ANSWER)[:20],
        "is incomplete: its deflate data have no end",
    ),
    "gzip in gzip, cut off": (
        "gzip, gzip",
        gzip.compress(gzip.compress(ANSWER)[:20]),
        "is incomplete: its gzip data have no end",
    ),
    "too many codings": (
        "gzip" + ", gzip" * 4,
        b"\x1f\x8b",
        "is encoded as 'gzip, gzip, gzip, gzip, gzip', which was not",
    ),
    "gzip in another one": ("br, gzip", gzip.compress(b"\x1b+"), "is encoded as 'br, gzip', which was not requested"),
    "gzip cut off in its data": ("gzip", gzip.compress(ANSWER)[:20], "is incomplete: its gzip data have no end"),
    "zstd cut off": ("zstd", zstd.compress(ANSWER)[:-1], "is incomplete: its zstd data have no end"),
    "zstd cut off in its header": ("zstd", zstd.compress(ANSWER)[:3], "is incomplete: its zstd data have no end"),
    "gzip with a wrong checksum": ("gzip", gzip.compress(ANSWER)[:-8] + b"\0" * 8, "is not valid gzip data"),
    "zstd with too wide a window": ("zstd", a_wide_frame(24), "is not valid zstd data"),
    "brotli": ("br", b"\x1b+\x00\xf8", "is encoded as 'br', which was not requested"),
    "a long name": ("x" * 5000, b"\x1b?", f"is encoded as '{'x' * 40}', which was not requested"),
}


@pytest.mark.parametrize(("coding", "body"), READABLE.values(), ids=READABLE)
async def test_what_was_compressed_reads_like_what_was_not(
    serve: Serve, open_channel: OpenChannel, coding: str, body: bytes
) -> None:
    """Nothing was asked for, and the connection is kept."""
    server = await serve(says(a_reply(body, f"Content-Encoding: {coding}")))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [(reply.status, reply.body, reply.detail) for reply in replies] == [(200, ANSWER, "")] * 2
    assert [request.headers["Accept-Encoding"] for request in server.received] == ["identity"] * 2
    assert len(server.peers) == 1


@pytest.mark.parametrize(("coding", "body", "detail"), UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_is_told_and_not_kept(
    serve: Serve, open_channel: OpenChannel, coding: str, body: bytes, detail: str
) -> None:
    """Nobody can see whether a packed body holds a secret; the connection is in order, since its framing was."""
    server = await serve(says(a_reply(body, f"Content-Encoding: {coding}")))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    told = f"the body of the reply {detail}"
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"")] * 2
    assert all(reply.detail.startswith(told) for reply in replies)
    assert len(server.peers) == 1


@pytest.mark.parametrize(("coding", "body"), TEXTS.values(), ids=TEXTS)
def test_text_stays_whatever_coding_is_named(coding: str, body: bytes) -> None:
    """Gateways pass on the header of a reply that they have replaced, and its words tell what is wrong."""
    reply = without_coding(packed(body, coding.encode()), 1000)

    assert (reply.body, reply.detail) == (body, "")


async def test_a_transfer_coding_is_taken_off(serve: Serve, open_channel: OpenChannel) -> None:
    """RFC 9112 section 7: the chunks are outside of it."""
    packed_body = gzip.compress(ANSWER)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    server = await serve(says(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed_body), packed_body)))

    reply = await open_channel(server.url).send(a_request())

    assert reply.body == ANSWER


async def test_compressed_chunks(serve: Serve, open_channel: OpenChannel) -> None:
    """Chunks are cut without regard to what is in them."""
    packed = gzip.compress(ANSWER)
    chunks = b"".join(b"1\r\n%b\r\n" % bytes([byte]) for byte in packed)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = await serve(says(head + chunks + b"0\r\n\r\n"))

    reply = await open_channel(server.url).send(a_request())

    assert reply.body == ANSWER


async def test_an_error_reply_is_read_too(serve: Serve, open_channel: OpenChannel) -> None:
    """Its message is what a person has to see."""
    body = gzip.compress(b'{"error":{"message":"the model is gone","code":"model_not_found"}}')
    server = await serve(says(a_reply(body, "Content-Encoding: gzip", status="404 Not Found")))

    reply = await open_channel(server.url).send(a_request())

    verdict = judge(a_request(), reply, 0.0)
    assert not isinstance(verdict, Answer)
    assert (verdict.message, verdict.code) == ("HTTP 404: the model is gone", "model_not_found")


def packed(body: bytes, coding: bytes = b"gzip", status: int = 200) -> Reply:
    return Reply(status, {b"Content-Type": b"application/json", b"content-encoding": coding}, body)


def test_an_answer_that_cannot_be_read_is_asked_for_again() -> None:
    """Like any reply without a usable answer; the record says what it was, and holds none of it."""
    verdict = judge(a_request(), without_coding(packed(b"\x1b?", b"br"), 1000), 0.0)

    assert not isinstance(verdict, Answer)
    assert (verdict.action, verdict.code, verdict.was_used) == (Action.RETRY, "unusable_reply", True)
    assert verdict.message == "the body of the reply is encoded as 'br', which was not requested"


def test_a_status_counts_whatever_its_body_is() -> None:
    """A 429 means the same in any coding."""
    verdict = judge(a_request(), without_coding(packed(b"\x1b?", b"br", 429), 1000), 0.0)

    assert not isinstance(verdict, Answer)
    assert verdict.action is Action.PUSH_BACK
    assert verdict.message == "HTTP 429: the body of the reply is encoded as 'br', which was not requested"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize(("surplus", "cause"), [(0, None), (1, Cause.TOO_LARGE)])
def test_the_cap_counts_what_comes_out(coding: str, surplus: int, cause: Cause | None) -> None:
    """To the byte."""
    reply = without_coding(packed(PACK[coding](b"x" * (1000 + surplus)), coding.encode()), 1000)

    assert reply.cause is cause
    assert len(reply.body) == (0 if cause else 1000)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_bomb_bursts_outside_of_memory(coding: str) -> None:
    """Some kilobytes that unpack to 100 MB take no more than the cap and its copy."""
    bomb = PACK[coding](bytes(100 * A_MEGABYTE))
    tracemalloc.start()

    reply = without_coding(packed(bomb, coding.encode()), A_MEGABYTE)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reply.cause is Cause.TOO_LARGE
    assert reply.detail == "the reply unpacks to more than 1048576 bytes and was cut off"
    assert peak < 5 * A_MEGABYTE


def test_members_without_end_are_cut_off() -> None:
    """Each costs more to open than its bytes tell."""
    reply = without_coding(packed(gzip.compress(b"") * 1001), A_MEGABYTE)

    assert reply.cause is Cause.TOO_LARGE


def test_a_large_reply_of_many_members_is_read() -> None:
    """As block-wise packers write it."""
    blocks = [bytes([number % 256]) * 60_000 for number in range(200)]

    reply = without_coding(packed(b"".join(map(gzip.compress, blocks))), 64 * A_MEGABYTE)

    assert reply.body == b"".join(blocks)


def test_a_reply_of_many_pieces_is_read() -> None:
    """A megabyte that hardly packs."""
    noise = bytes(range(256)) * 4096

    reply = without_coding(packed(zlib.compress(noise, 0), b"deflate"), 64 * A_MEGABYTE)

    assert reply.body == noise


def test_codings_are_a_list() -> None:
    """RFC 9110 section 8.4."""
    reply = Reply(200, {b"Content-Encoding": b"identity, gzip"}, gzip.compress(ANSWER))

    assert without_coding(reply, 1000).body == ANSWER
