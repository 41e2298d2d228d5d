"""Replies for the differential test: real heads and bodies, changed at random."""

from random import Random

JSON = b'{"id":"chatcmpl-1","choices":[{"message":{"content":"four\\n"}}]}'
STREAM = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'
LENGTH, CHUNKED = b"Content-Length: %d" % len(JSON), b"Transfer-Encoding: chunked"
NGINX = (
    *(b"Server: nginx/1.24.0", b"Date: Sat, 28 Nov 2026 09:31:47 GMT", b"Content-Type: application/json"),
    *(b"Connection: keep-alive", b"x-request-id: 8f14e45fceea167a5a36dedd4bea2543"),
    *(b"x-ratelimit-remaining-requests: 9999", b"x-ratelimit-reset-requests: 6ms", b'alt-svc: h3=":443"; ma=86400'),
)
UVICORN = b"date: Sat, 28 Nov 2026 09:31:47 GMT", b"server: uvicorn", b"content-type: application/json"


def chunks_of(body: bytes, size: int, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """Return the body in chunks, with the last one."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n%b\r\n" % trailers


def message(*headers: bytes, body: bytes = b"", status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"HTTP/%b %b" % (version, status), *headers, b"", b""]) + body


REPLIES = {
    "nginx": message(*NGINX, LENGTH, body=JSON),
    "uvicorn": message(*UVICORN, LENGTH.lower(), body=JSON),
    "chunked": message(*NGINX, CHUNKED, body=chunks_of(JSON, 40)),
    "one chunk": message(CHUNKED.lower(), *UVICORN, body=chunks_of(JSON, 1000)),
    "stream": message(b"content-type: text/event-stream", CHUNKED, body=chunks_of(STREAM, 22)),
    "extensions and trailers": message(CHUNKED, body=chunks_of(JSON, 30, b';a="b";c', b"X-Trailer: 1\r\nY: 2\r\n")),
    "the end of the connection": message(*UVICORN, b"Connection: close", body=JSON),
    "HTTP/1.0": message(*NGINX[:3], LENGTH, body=JSON, version=b"1.0"),
    "no body": message(b"Server: nginx", status=b"204 No Content"),
    "empty": message(b"Content-Length: 0"),
    "rate limit": message(*UVICORN, b"Retry-After: 7", LENGTH, body=JSON, status=b"429 Too Many Requests"),
    "early hints": message(b"Link: </a>", status=b"103 Early Hints") + message(*UVICORN, LENGTH, body=JSON),
    "continue": message(status=b"100 Continue") + message(*NGINX, CHUNKED, body=chunks_of(JSON, 50)),
    "interim reply with a body": message(b"Content-Length: 3", status=b"102 P", body=b"xyz")
    + message(LENGTH, body=JSON),
    "switch": message(
        b"Upgrade: websocket", b"Connection: Upgrade", status=b"101 Switching Protocols", body=b"\x81\x00"
    ),
    "bare LF": message(*NGINX, LENGTH, body=JSON).replace(b"\r\n", b"\n"),
    "folded": message(b"X-Folded: a\r\n b", LENGTH, body=JSON),
    "two at once": message(*UVICORN, LENGTH, body=JSON) + message(LENGTH, b"X-Second: 1", body=JSON.upper()),
    "line ends in front": b"\r\n\r\n" + message(*UVICORN, LENGTH, body=JSON),
    "length and chunks": message(LENGTH, CHUNKED, body=chunks_of(JSON, 40)),
    "empty values": message(b"X-Empty:", b"X-Blank: ", CHUNKED, b"X-Last:", body=chunks_of(JSON, 40, b"", b"T:\r\n")),
    "no headers": message(body=JSON),
}
ODD_LINES = (
    *(LENGTH, b"Content-Length: 7", b"content-length: 007", b"Content-Length: +8", b"Content-Length: 8, 8"),
    *(b"Content-Length: 99999999999999999999", b"Content-Length:", b"CONTENT-LENGTH:\t8\t", b"Content-Length : 8"),
    *(CHUNKED, b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"transfer-encoding: CHUNKED "),
    *(b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding:", b"Content-Encoding: gzip", b"Content-Encoding: x"),
    *(b"Connection: close", b"Connection: keep-alive, close", b"connection:\tKeep-Alive", b"Connection: upgrade"),
    *(b"Proxy-Connection: close", b"Upgrade: h2c", b"X-Empty:", b" folded", b"\tfolded", b"no colon", b": no name"),
    *(b"X\x00: 1", b"X: \x00", b"X: \x7f\x01", b"X: \xff\xfe", b"X y: 1", b"X\x80: 1", b"X: a\rb", b"X: a\nb", b""),
)
ODD_STATUS_LINES = (
    *(b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 204 No Content"),
    *(b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 Switching", b"HTTP/1.1 99 Low"),
    *(b"HTTP/1.1 600 High", b"HTTP/1.1 2000 OK", b"HTTP/1.0 200 OK", b"HTTP/2 200", b"HTTP/1.2 200 OK", b"ICY 200 OK"),
    *(b"HTTP/1.1 200 \xc3\x96K", b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 500 Internal Server Error", b"RTSP/1.0 200 OK"),
)
ODD_BYTES = (b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b";", b"\0", b"\x7f", b"\xff", b"0", b"f")


def changed(reply: bytes, random: Random) -> bytes:
    """Return the reply after up to four changes."""
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        reply = random.choice(_CHANGES)(reply, random)
    return reply


def split(reply: bytes, random: Random) -> list[bytes]:
    """Return the reply in one packet, in a few or in many."""
    cuts = random.choice((0, 0, 1, 1, 2, 5, 40))
    places = sorted(random.randint(0, len(reply)) for _ in range(cuts))
    packets = [reply[start:end] for start, end in zip([0, *places], [*places, len(reply)], strict=True)]
    return [packet for packet in packets if packet]


def _change_line(reply: bytes, random: Random) -> bytes:
    lines = reply.split(b"\r\n")
    lines[random.randrange(len(lines))] = random.choice(ODD_LINES)
    return b"\r\n".join(lines)


def _add_line(reply: bytes, random: Random) -> bytes:
    lines = reply.split(b"\r\n")
    lines.insert(random.randint(1, len(lines)), random.choice(ODD_LINES))
    return b"\r\n".join(lines)


def _repeat_line(reply: bytes, random: Random) -> bytes:
    lines = reply.split(b"\r\n")
    lines.insert(random.randint(1, len(lines)), random.choice(lines))
    return b"\r\n".join(lines)


def _drop_line(reply: bytes, random: Random) -> bytes:
    lines = reply.split(b"\r\n")
    del lines[random.randrange(len(lines))]
    return b"\r\n".join(lines)


def _change_status(reply: bytes, random: Random) -> bytes:
    return random.choice(ODD_STATUS_LINES) + b"\r\n" + reply.partition(b"\r\n")[2]


def _change_case(reply: bytes, random: Random) -> bytes:
    start = random.randint(0, len(reply))
    end = start + random.randint(1, 40)
    return reply[:start] + reply[start:end].swapcase() + reply[end:]


def _insert_bytes(reply: bytes, random: Random) -> bytes:
    at = random.randint(0, len(reply))
    return reply[:at] + random.choice(ODD_BYTES) + reply[at:]


def _replace_byte(reply: bytes, random: Random) -> bytes:
    at = random.randint(0, len(reply))
    return reply[:at] + bytes([random.randint(0, 255)]) + reply[at + 1 :]


def _drop_bytes(reply: bytes, random: Random) -> bytes:
    at = random.randint(0, len(reply))
    return reply[:at] + reply[at + random.choice((1, 1, 2, 10, 100)) :]


def _cut(reply: bytes, random: Random) -> bytes:
    return reply[: random.randint(0, len(reply))]


def _add_behind(reply: bytes, random: Random) -> bytes:
    return reply + random.choice((b"x", b"\r\n", b"garbage\r\n\r\n", *REPLIES.values()))


_CHANGES = (
    *(_change_line, _add_line, _repeat_line, _drop_line, _change_status, _change_case, _insert_bytes),
    *(_replace_byte, _drop_bytes, _cut, _add_behind),
)
