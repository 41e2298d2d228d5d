"""Faults on the wire: replies that are odd HTTP, broken HTTP or none, and connections that end at the wrong moment.

What is odd but right, such as chunks with trailers, holds the right answer, and a client has to find it.
Source: RFC 9112, message framing in section 6; RFC 9110 section 15.2 for interim replies.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from math import inf

from llmblast.mocking.incident import Fault, Incident
from llmblast.mocking.replies import Ending, ScriptedReply, Step

LARGE_REPLY_BYTES = 64 * 1024 * 1024
BOMB_BYTES = 256 * 1024 * 1024
_MIB = 1024 * 1024
_LARGE_HEADER_BYTES = _MIB
_SLOW_S = 0.3
_SLOW_PIECES = 10
_DRIP_S = 60.0
_ENDLESS_PAUSE_S = 0.05
_DOWN_S = 1.0
_ZSTD_BLOCK_BYTES = 128 * 1024


def _message(incident: Incident, body: bytes, *headers: bytes) -> bytes:
    return _head(incident, b"Content-Length: %d" % len(body), *headers) + body


def _head(incident: Incident, *headers: bytes, version: bytes = b"1.1") -> bytes:
    content_type = incident.answer.content_type.encode()
    request_id = incident.request_id.encode()
    own = (b"Content-Type: " + content_type, b"x-request-id: " + request_id)
    lines = (b"HTTP/%b 200 OK" % version, *own, *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _answered(incident: Incident, *steps: Step) -> ScriptedReply:
    """The right answer is in it, by the rules of HTTP."""
    return ScriptedReply(steps=steps, text=incident.answer.text)


def _broken(*steps: Step) -> ScriptedReply:
    """No whole reply is in it."""
    return ScriptedReply(status=0, steps=steps, is_whole=False)


def _pieces(data: bytes, total_s: float) -> Iterator[Step]:
    size = -(-len(data) // _SLOW_PIECES)
    for start in range(0, len(data), size):
        yield total_s / _SLOW_PIECES
        yield data[start : start + size]


def _slow_headers(incident: Incident) -> ScriptedReply:
    body = incident.answer.body
    head = _head(incident, b"Content-Length: %d" % len(body))
    return _answered(incident, *_pieces(head, incident.seconds_or(_SLOW_S)), body)


def _slow_body(incident: Incident) -> ScriptedReply:
    body = incident.answer.body
    return _answered(
        incident, _head(incident, b"Content-Length: %d" % len(body)), *_pieces(body, incident.seconds_or(_SLOW_S))
    )


def _drip(incident: Incident) -> ScriptedReply:
    """Byte by byte, head and body: whoever waits for the next byte only, waits for a long time."""
    message = _message(incident, incident.answer.body)
    pause_s = incident.seconds_or(_DRIP_S) / len(message)
    return _answered(incident, *(step for byte in message for step in (pause_s, bytes((byte,)))))


def _endless_body(incident: Incident) -> ScriptedReply:
    def steps() -> Iterator[Step]:
        yield _head(incident, b"Transfer-Encoding: chunked")
        while True:
            yield b"1\r\n \r\n"
            yield _ENDLESS_PAUSE_S

    return ScriptedReply(status=0, steps=steps(), is_whole=False)


def _large_headers(incident: Incident) -> ScriptedReply:
    """More than most clients take; none has to."""
    return ScriptedReply(steps=[_message(incident, incident.answer.body, b"X-Padding: " + b"x" * _LARGE_HEADER_BYTES)])


def _large_reply(incident: Incident) -> ScriptedReply:
    """One byte more than 64 MiB of a text that never ends."""

    def steps() -> Iterator[Step]:
        yield _head(incident, b"Content-Length: %d" % (LARGE_REPLY_BYTES + 1))
        yield b"["
        for _ in range(LARGE_REPLY_BYTES // _MIB):
            yield b" " * _MIB

    return ScriptedReply(steps=steps())


def _truncated(incident: Incident) -> ScriptedReply:
    """The length is that of the whole body, of which half comes."""
    body = incident.answer.body
    return _broken(_head(incident, b"Content-Length: %d" % len(body)) + body[: len(body) // 2], Ending.CLOSE)


def _length_too_small(incident: Incident) -> ScriptedReply:
    """Half of the body is a whole reply, what follows it is nothing."""
    body = incident.answer.body
    return ScriptedReply(steps=[_head(incident, b"Content-Length: %d" % (len(body) // 2)) + body])


def _no_length(incident: Incident) -> ScriptedReply:
    return _broken(_head(incident, b"Content-Length: twelve") + incident.answer.body)


def _chunks(body: bytes) -> bytes:
    half = len(body) // 2
    return b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)


def _trailers(incident: Incident) -> ScriptedReply:
    head = _head(incident, b"Transfer-Encoding: chunked", b"Trailer: X-Digest")
    return _answered(incident, head + _chunks(incident.answer.body) + b"0\r\nX-Digest: abc\r\n\r\n")


def _broken_chunk(incident: Incident) -> ScriptedReply:
    """The end is in the middle of the answer, and in the size of a chunk."""
    body = incident.answer.body
    half = _chunks(body[: len(body) // 2])
    return _broken(_head(incident, b"Transfer-Encoding: chunked") + half + b"f", Ending.CLOSE)


def _bad_chunk_size(incident: Incident) -> ScriptedReply:
    return _broken(_head(incident, b"Transfer-Encoding: chunked") + b"zz\r\n" + incident.answer.body)


def _gzip(incident: Incident) -> ScriptedReply:
    return _packed(incident, gzip.compress(incident.answer.body), b"gzip")


def _deflate(incident: Incident) -> ScriptedReply:
    return _packed(incident, zlib.compress(incident.answer.body), b"deflate")


def _zstd(incident: Incident) -> ScriptedReply:
    return _packed(incident, _zstd_frame(incident.answer.body), b"zstd")


def _packed(incident: Incident, body: bytes, encoding: bytes) -> ScriptedReply:
    return _answered(incident, _message(incident, body, b"Content-Encoding: " + encoding))


def _zstd_frame(data: bytes) -> bytes:
    """One frame of blocks that are not compressed: the standard library cannot write any (RFC 8878 section 3.1.1)."""
    single_segment_4_byte_size = 0b1010_0000
    frame = struct.pack("<IBI", 0xFD2FB528, single_segment_4_byte_size, len(data))
    for start in range(0, max(len(data), 1), _ZSTD_BLOCK_BYTES):
        block = data[start : start + _ZSTD_BLOCK_BYTES]
        is_last = start + _ZSTD_BLOCK_BYTES >= len(data)
        frame += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return frame


def _bomb(incident: Incident) -> ScriptedReply:
    return ScriptedReply(steps=[_message(incident, _gzip_of_blanks(), b"Content-Encoding: gzip")])


@cache
def _gzip_of_blanks() -> bytes:
    """A gzip member of so many blanks, made from one compressed MiB that stands there again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    blanks = b" " * _MIB
    packed = packer.compress(blanks) + packer.flush(zlib.Z_FULL_FLUSH)
    count, checksum = BOMB_BYTES // _MIB, 0
    for _ in range(count):
        checksum = zlib.crc32(blanks, checksum)
    member = packed * count + packer.flush(zlib.Z_FINISH)
    header = bytes([31, 139, 8, 0, 0, 0, 0, 0, 2, 255])  # RFC 1952 section 2.3: deflate, no name, no time
    return header + member + struct.pack("<II", checksum, BOMB_BYTES)


def _continue_first(incident: Incident) -> ScriptedReply:
    return _answered(incident, b"HTTP/1.1 100 Continue\r\n\r\n", _message(incident, incident.answer.body))


def _early_hints(incident: Incident) -> ScriptedReply:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    return _answered(incident, hints, _message(incident, incident.answer.body))


def _close_after(incident: Incident) -> ScriptedReply:
    """The connection was to be kept, as far as the reply says."""
    return _answered(incident, _message(incident, incident.answer.body), Ending.CLOSE)


def _stale(incident: Incident) -> ScriptedReply:
    """A kept connection is closed instead of an answer; on a fresh one all is well."""
    return _broken(Ending.CLOSE) if incident.is_kept else _answered(incident, _message(incident, incident.answer.body))


def _closed(incident: Incident) -> ScriptedReply:
    return ScriptedReply(break_connection=True)


def _closed_in_headers(incident: Incident) -> ScriptedReply:
    return _broken(b"HTTP/1.1 200 OK\r\nContent-Type: applic", Ending.CLOSE)


def _http10(incident: Incident) -> ScriptedReply:
    """The end of the connection is the end of the body."""
    return _answered(incident, _head(incident, version=b"1.0") + incident.answer.body, Ending.CLOSE)


def _reset(incident: Incident) -> ScriptedReply:
    return _broken(Ending.RESET)


def _reset_in_body(incident: Incident) -> ScriptedReply:
    body = incident.answer.body
    return _broken(_head(incident, b"Content-Length: %d" % len(body)) + body[: len(body) // 2], 0.01, Ending.RESET)


def _black_hole(incident: Incident) -> ScriptedReply:
    return _broken(incident.seconds_or(inf), Ending.CLOSE)


def _duplicate(incident: Incident) -> ScriptedReply:
    """The second reply to one request is an answer to nobody."""
    foreign = b'{"choices":[{"message":{"role":"assistant","content":"This is for somebody else."}}]}'
    return _answered(incident, _message(incident, incident.answer.body) + _message(incident, foreign))


def _garbage(incident: Incident) -> ScriptedReply:
    return _broken(b"SSH-2.0-OpenSSH_9.6\r\n" + b"\x00\xff" * 20, Ending.CLOSE)


def _tls(incident: Incident) -> ScriptedReply:
    """The alert of a port that speaks TLS: fatal, record overflow (RFC 8446 section 6)."""
    return _broken(b"\x15\x03\x03\x00\x02\x02\x16", Ending.CLOSE)


def _restart(incident: Incident) -> ScriptedReply:
    return ScriptedReply(break_connection=True, down_s=incident.seconds_or(_DOWN_S))


WIRES: Mapping[str, Fault] = {
    "slow-headers": _slow_headers,
    "slow-body": _slow_body,
    "drip": _drip,
    "endless-body": _endless_body,
    "large-headers": _large_headers,
    "large-reply": _large_reply,
    "truncated": _truncated,
    "length-too-small": _length_too_small,
    "bad-length": _no_length,
    "chunked-trailers": _trailers,
    "broken-chunk": _broken_chunk,
    "bad-chunk-size": _bad_chunk_size,
    "gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
    "bomb": _bomb,
    "continue-first": _continue_first,
    "early-hints": _early_hints,
    "close-after": _close_after,
    "stale": _stale,
    "closed": _closed,
    "closed-in-headers": _closed_in_headers,
    "http10": _http10,
    "reset": _reset,
    "reset-in-body": _reset_in_body,
    "black-hole": _black_hole,
    "duplicate": _duplicate,
    "garbage": _garbage,
    "tls": _tls,
    "restart": _restart,
}
"""The faults of this file by the name that a rule has for them."""
