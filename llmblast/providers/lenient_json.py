"""Lenient JSON: read replies that strict JSON refuses, since their answers are billed all the same.

| in the reply | read as |
|---|---|
| half of a surrogate pair, invalid or cut UTF-8 | U+FFFD |
| `NaN`, `Infinity`, `-Infinity`, a number beyond 64-bit floating point | a text with that spelling |
| a raw control character inside a text | kept |
| a byte order mark, UTF-16, UTF-32, the charset of the Content-Type | decoded |
| NUL padding, keep-alive white space and comment lines in front; anything after a whole object | left out |
| an event stream, or one JSON object a line | joined into one reply, see `streams` |

Only bodies that orjson refuses come here, so that other replies cost nothing.
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Protocol

import orjson

from llmblast.models import Answer, Reply, ReplyError
from llmblast.providers.plain_text import words_of
from llmblast.providers.streams import UnreadableStreamError, join_chunks

_PADDING = "\0\ufeff \t\r\n"
_COMMENTS = re.compile(r"(?::[^\r\n]*(?:[\r\n]\s*|\Z))+")
_EVENTS = re.compile(r"(?:data|event|id|retry):")
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_CHARSET = re.compile(rb"charset *= *\"?([\w.:-]+)")
_END_OF_STREAM = "[DONE]"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NUL_PATTERNS = (
    (re.compile(rb"(?:\0\0\0[^\0]){2}"), "utf-32-be"),
    (re.compile(rb"(?:[^\0]\0\0\0){2}"), "utf-32-le"),
    (re.compile(rb"(?:\0[^\0]){2}"), "utf-16-be"),
    (re.compile(rb"(?:[^\0]\0){2}"), "utf-16-le"),
)
"""RFC 4627 section 3: JSON begins with two ASCII characters."""


class Join(Protocol):
    """Makes one reply of the events of a stream. Raises UnreadableStreamError."""

    def __call__(self, chunks: Sequence[object], /, *, is_ended: bool) -> object: ...


class UnreadableReplyError(Exception):
    """The reply has no JSON; the text names its content."""


class NoJsonError(UnreadableReplyError):
    """The reply begins neither like JSON nor like a stream: it is a page or a plain text."""


def repaired_json(reply: Reply, join: Join = join_chunks) -> bytes:
    """Return the body of the reply as strict JSON. Raises UnreadableReplyError only.

    `join` makes one reply of the events of a stream. It raises UnreadableStreamError for an incomplete one.
    """
    try:
        text = _decode(reply.body, reply.header(b"content-type") or b"").strip(_PADDING)
        repaired = _strict(_read(text, join))
        return repaired if reply.hide is None else reply.hide(repaired)
    except UnreadableStreamError as error:
        raise UnreadableReplyError(str(error)) from None
    except (ValueError, RecursionError):
        raise UnreadableReplyError("a body that is not JSON") from None


def read_repaired_answer(
    reply: Reply, read: Callable[[int, object], Answer | ReplyError], join: Join = join_chunks
) -> Answer | ReplyError:
    """Return what `read` finds in the status and the parsed reply. An answer's strict JSON becomes the body."""
    repaired = read_repaired(reply, join)
    if isinstance(repaired, ReplyError):
        return repaired
    data, body = repaired
    answer = read(reply.status, data)
    if isinstance(answer, Answer):
        reply.body = body
    return answer


def read_repaired(reply: Reply, join: Join = join_chunks) -> tuple[object, bytes] | ReplyError:
    """Return the parsed reply and its strict JSON, or the error."""
    if reply.detail:
        return ReplyError(reply.detail, "unusable_reply")
    try:
        body = repaired_json(reply, join)
        return orjson.loads(body), body
    except (UnreadableReplyError, orjson.JSONDecodeError) as error:
        what = error if isinstance(error, UnreadableReplyError) else "JSON that is nested too deeply"
        words = words_of(reply.body) if isinstance(error, NoJsonError) else ""
        return ReplyError(f"HTTP {reply.status} with {what}{words and f': {words}'}", "unusable_reply")


def _read(text: str, join: Join) -> object:
    if not text:
        raise UnreadableReplyError("an empty body")
    if comments := _COMMENTS.match(text):
        text = text[comments.end() :].lstrip(_PADDING)
    if text[:1] in ("{", "["):
        return _read_whole(text)
    if _EVENTS.match(text) or (comments and not text):
        return _read_events(text, join)
    raise NoJsonError("a body that is not JSON")


def _decode(body: bytes, content_type: bytes) -> str:
    for mark, name in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body.decode(name, "replace")
    for pattern, name in _NUL_PATTERNS:
        if pattern.match(body):
            return body.decode(name, "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode(_charset_of(content_type), "replace")


def _charset_of(content_type: bytes) -> str:
    """Return the name of the declared charset where it is one of text, else UTF-8."""
    declared = _CHARSET.search(content_type.lower())
    name = declared[1].decode("ascii") if declared else "utf-8"
    try:
        b"{}".decode(name)
    except (LookupError, ValueError):
        return "utf-8"
    return name


def _read_whole(text: str) -> object:
    """Return the first value in `text`; where it is a chunk and others follow, all of them joined."""
    value, end = _DECODER.raw_decode(text)
    if not (isinstance(value, dict) and text[end:].lstrip(_PADDING).startswith("{")):
        return value
    values = [value]
    while (end := _skip_padding(text, end)) < len(text) and text[end] == "{":
        value, end = _DECODER.raw_decode(text, end)
        values.append(value)
    is_stream = any(name in values[0] for name in ("done", "choices"))
    return join_chunks(values, is_ended=_END_OF_STREAM in text[end:]) if is_stream else values[0]


def _skip_padding(text: str, start: int) -> int:
    while start < len(text) and text[start] in _PADDING:
        start += 1
    return start


def _read_events(text: str, join: Join) -> object:
    """Join an event stream: https://html.spec.whatwg.org/multipage/server-sent-events.html.

    A `data` line that is JSON by itself is a chunk, since some servers leave out the empty line between events.
    """
    chunks: list[object] = []
    is_ended, event, pending = False, "", ""
    for line in _LINE_ENDS.split(text):
        name, _, value = line.partition(":")
        if not line:
            event = ""
        elif name == "event":
            event = value.strip()
        elif name == "data":
            pending += value.strip(_PADDING).removeprefix("data:").lstrip()  # some proxies put it in front twice
            if pending == _END_OF_STREAM:
                is_ended, pending = True, ""
            elif pending and (chunk := _chunk_in(pending)) is not None:
                chunks.append({"error": chunk} if event == "error" and "error" not in chunk else chunk)
                pending = ""
    if pending:
        raise UnreadableStreamError("a stream that ends in the middle of a chunk")
    return join(chunks, is_ended=is_ended)


def _chunk_in(text: str) -> dict[str, object] | None:
    try:
        value = _DECODER.decode(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else {}


def _strict(value: object) -> bytes:
    """Write JSON that every parser reads. Halves of pairs are joined, lone ones replaced."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _finite(text: str) -> float | str:
    value = float(text)
    return value if isfinite(value) else text


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=str, strict=False)
