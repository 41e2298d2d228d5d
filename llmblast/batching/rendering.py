"""Bodies of requests as lines of a batch file."""

import orjson


def one_line(body: bytes) -> bytes:
    """Return JSON without line ends. In JSON they are white space between tokens only (RFC 8259 section 2)."""
    if b"\n" in body or b"\r" in body:
        return body.replace(b"\r", b" ").replace(b"\n", b" ")
    return body


def without_stream(body: bytes) -> bytes:
    """Return a body without the request for a stream, which no batch can have."""
    if b'"stream"' not in body and b'"stream_options"' not in body:
        return body
    members = orjson.loads(body)
    members.pop("stream", None)
    members.pop("stream_options", None)
    return orjson.dumps(members)
