"""A paid answer is read even where its spelling is not strict JSON, and what is no answer stays none."""

import codecs
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.providers.reply_errors import read_error

read_answer = DEFAULT_PROVIDER.read_answer

GOOD = '{"choices":[{"message":{"role":"assistant","content":"Grüße"},"finish_reason":"stop"}]}'
PLAIN = GOOD.encode()


def chat(text: str, more: str = "") -> bytes:
    """A chat completion with this JSON spelling of its text."""
    return (
        f'{{"choices":[{{"message":{{"role":"assistant","content":{text}}},"finish_reason":"stop"{more}}}]}}'.encode()
    )


def read(body: bytes, content_type: str = "application/json") -> Answer | ReplyError:
    reply = Reply(200, {b"Content-Type": content_type.encode()}, body)
    answer = read_answer(Request(1, "0" * 16, b"", "row-1"), reply)
    if isinstance(answer, Answer):
        orjson.loads(reply.body)  # a record can hold it as JSON
    return answer


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (chat('"Hi \\ud83d"'), "Hi \ufffd"),
        (chat('"\\ude00 Hi"'), "\ufffd Hi"),
        (chat('"\\ud83d\\ud83d\\ude00"'), "\ufffd\U0001f600"),
        (chat('"\\\\ud83d and \\ud83d"'), "\\ud83d and \ufffd"),
        (chat('"Hi"').replace(b"Hi", b"Hi \xf0\x9f"), "Hi \ufffd"),
        (chat('"Hi"').replace(b"Hi", b"H\xffi"), "H\ufffdi"),
        (chat('"Hi"').replace(b"Hi", b"H\ni\t"), "H\ni\t"),
    ],
)
def test_half_a_character_is_replaced(body: bytes, text: str) -> None:
    """`max_tokens` may cut an emoji in half, and a server may write it raw or escaped."""
    answer = read(body)

    assert isinstance(answer, Answer)
    assert answer.text == text


@pytest.mark.parametrize(
    "body",
    [
        codecs.BOM_UTF8 + PLAIN,
        b"\n\n \r\n" + PLAIN,
        b": keep-alive\n\n: keep-alive\r\n\r\n" + PLAIN,
        b"\0\0" + PLAIN + b"\0" * 64,
        PLAIN + b"\n\ndata: [DONE]\n\n",
        PLAIN + b"\n<!-- served by proxy -->",
        PLAIN + b"\n" + PLAIN,
        GOOD.encode("utf-16"),
        GOOD.encode("utf-16-le"),
        GOOD.encode("utf-16-be"),
        GOOD.encode("utf-32"),
        GOOD.encode("utf-32-le"),
        GOOD.encode("utf-32-be"),
        codecs.BOM_UTF16_BE + GOOD.encode("utf-16-be"),
    ],
)
def test_what_stands_around_a_whole_object_is_left_out(body: bytes) -> None:
    """So are marks and paddings; the bytes may be of another Unicode encoding."""
    answer = read(body)

    assert isinstance(answer, Answer)
    assert answer.text == "Grüße"


@pytest.mark.parametrize(
    ("charset", "text"),
    [("iso-8859-1", "Grüße"), ('"Latin1"', "Grüße"), ("utf-8", "Gr\ufffd\ufffde"), ("x-no", "Gr\ufffd\ufffde")],
)
def test_the_charset_of_the_reply_counts_where_it_is_not_utf_8(charset: str, text: str) -> None:
    """Old gateways still say latin-1, and mean it."""
    answer = read(GOOD.encode("latin-1"), f"application/json; charset={charset}")

    assert isinstance(answer, Answer)
    assert answer.text == text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_kept_as_text(number: str) -> None:
    """Python writes them unless it is told not to; the logprob of an impossible token is minus infinity."""
    reply = Reply(200, body=chat('"Yes"', f',"logprobs":{{"content":[{{"logprob":{number}}}]}}'))

    answer = read_answer(Request(1, "0" * 16, b"", "row-1"), reply)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.says_more) == ("Yes", True)
    assert orjson.loads(reply.body)["choices"][0]["logprobs"]["content"] == [{"logprob": number}]


@pytest.mark.parametrize(
    "body",
    [
        PLAIN[:-1],
        PLAIN[:40],
        b"<html>NaN</html>",
        b"Infinity",
        b'{"choices":[' + b"[" * 100_000,
        b'{"choices":[{"message":{"content":' + b"9" * 5000 + b"}}]}",
        b"{}{}",
        b"\xff\xfe",
        b"\0",
        b": only a comment",
    ],
)
def test_what_is_no_answer_stays_none(body: bytes) -> None:
    """And nothing raises; the body is kept as it came."""
    reply = Reply(200, body=body)

    assert isinstance(read_answer(Request(1, "0" * 16, b"", "row-1"), reply), ReplyError)
    assert reply.body == body


def test_an_error_is_read_as_leniently() -> None:
    """Its words decide what follows."""
    body = codecs.BOM_UTF8 + b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}\0'

    error = read_error(Reply(500, body=body))

    assert (error.message, error.code) == ("slow down", "rate_limit_exceeded")


def test_strict_json_is_not_touched() -> None:
    """The record keeps the very bytes."""
    body = json.dumps(json.loads(GOOD), indent=2).encode()
    reply = Reply(200, body=body)

    assert isinstance(read_answer(Request(1, "0" * 16, b"", "row-1"), reply), Answer)
    assert reply.body is body


@given(st.binary(max_size=12), st.sampled_from(["", "utf-16", "base64", "idna", "latin-1", "undefined"]))
def test_any_bytes_can_be_read(piece: bytes, charset: str) -> None:
    """There is an answer or an error, whatever stands in front of, inside or behind a reply."""
    for body in (piece, piece + PLAIN, PLAIN + piece, PLAIN[:60] + piece + PLAIN[60:], b"data: " + PLAIN + piece):
        assert isinstance(read(body, f"text/event-stream; charset={charset}"), Answer | ReplyError)
