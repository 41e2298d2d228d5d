"""The parser: detection, bad lines in people's words, and that nothing a line holds can break the run."""

import json
import os
from typing import Literal

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmblast.models import Failure, Request
from llmblast.reading import LineSplitter, key_of
from llmblast.settings import Settings
from tests.openai_provider import RequestParser

KEY = "0123456789abcdef"
FormatName = Literal["auto", "simple", "raw", "openai-batch"]
FORMAT_NAMES: tuple[FormatName, ...] = ("auto", "simple", "raw", "openai-batch")
PARSERS = [
    RequestParser(Settings(format=name, prompt=prompt))
    for name in FORMAT_NAMES
    for prompt in (None, "Say {input}: {b}")
]

FIELD_NAMES = [
    "input",
    "prompt",
    "system",
    "images",
    "params",
    "priority",
    "deadline",
    "tenant",
    "id",
    "custom_id",
    "b",
]
FIELD_NAMES += ["model", "messages", "body", "url", "method", "stream", "max_tokens"]
API_URLS = st.sampled_from(["/v1/chat/completions", "https://[/v1/embeddings", "/v1/completions"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | API_URLS
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELD_NAMES), inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(FIELD_NAMES), values, max_size=7)


def failure(text: bytes, settings: Settings | None = None) -> Failure:
    result = RequestParser(settings or Settings()).parse(17, KEY, text)
    assert isinstance(result, Failure)
    return result


def assert_usable(result: Request | Failure, text: bytes) -> None:
    """A record of it can be written and read again, and a request's body is the JSON that will be sent."""
    line = result.line if isinstance(result, Failure) else result
    written = orjson.dumps({"key": KEY, "id": line.id, "input": line.input, "extra": line.extra})
    record = json.loads(written, parse_int=str)  # orjson reads no number that is larger than any float
    assert (line.number, line.key, line.text) == (17, KEY, text)
    if isinstance(result, Failure):
        assert result.error.startswith("standard input:17:")
        assert (result.code, result.transient) == ("bad_line", False)
        return
    body = result.body if not result.needs_model else b'{"model":"m",' + result.body[1:]
    assert type(json.loads(body, parse_int=str)["model"]) is str
    if result.output_format == "llmblast" and result.body != text:
        is_raw = isinstance(result.input, orjson.Fragment)
        assert record["input"] == (json.loads(result.body, parse_int=str) if is_raw else result.input)


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b"[" * 5000)
@example(b'{"a":' * 5000)
@example(b'{"input":NaN}')
@example(b'{"input":"x","y":1e999}')
@example(b'{"input":"\\ud800"}')
@example(b'{"input":"x","y":' + b"9" * 5000 + b"}")
@example(b'{"input":"x","y":' + b"[" * 300 + b"]" * 300 + b"}")
def test_arbitrary_bytes_never_raise(text: bytes) -> None:
    """A bad line is a value, whatever the settings."""
    for parser in PARSERS:
        assert_usable(parser.parse(17, KEY, text), text)


@settings(deadline=None)
@given(objects)
@example({"input": "x", "y": 2**64 - 1, "z": -(2**63)})
@example({"custom_id": "a", "url": "/v1/embeddings", "body": {"input": 2**70}})
def test_every_result_can_be_written(fields: dict[str, object]) -> None:
    """Whatever JSON holds, the record of it can be dumped and the body is whole."""
    text = json.dumps(fields).encode()
    for parser in PARSERS:
        assert_usable(parser.parse(17, KEY, text), text)


@pytest.mark.parametrize(
    ("text", "place_and_reason"),
    [
        (b"<html>", ":1: not JSON: the line starts with '<'"),
        (b'{"input": "hel', ":15: not JSON: it ends too early"),
        (b"{", "spread over several lines"),
        ('{"é": "'.encode() + b'\xff"}', ":8: not JSON: invalid UTF-8"),
        (b'{"input": "x\0y"}', ":13: not JSON: a zero byte: the file is damaged or not text"),
        ('{"é": "'.encode() + bytes(9), ":8: not JSON: a zero byte"),
        ("\ufeff中文".encode("utf-16-le"), ":1: not JSON: it looks like UTF-16"),
        ("\ufeff中文".encode("utf-16-be"), ":1: not JSON: it looks like UTF-16"),
        (bytes(4096), ":1: not JSON: a zero byte"),
        ('{"é": x}'.encode(), ":7: not JSON: unexpected character"),
        (b"{'input': 1}", ":2: not JSON: unexpected character, expected a string key"),
        (b'{"input": NaN}', ":11: not JSON: NaN and Infinity are not JSON: write null or remove them"),
        ('{"é": [-Infinity]}'.encode(), "NaN and Infinity are not JSON"),
        (b'{"input": Nothing}', ":11: not JSON: unexpected character"),
        (b'text,"label"', ':1: not JSON: it looks like CSV: write one JSON object a line, such as {"input": '),
        (b'"say ""hi""";5', "it looks like CSV"),
        (b"1\tNaN", "it looks like CSV"),
        (
            b"What is the capital of France?",
            ':1: not JSON: it looks like plain text: write one JSON object a line, such as {"input": "..."}. '
            "To send each line as a prompt: --format text",
        ),
        (b'{"input": "x"}, {', ":15: not JSON: more than one object on the line"),
        (b'{"input": "x"}\r{"input": "y"}', ":16: not JSON: lines end with CR alone"),
        (b'"input": "x",', ":1: not JSON: one object is spread over several lines: join them"),
        (b"},", "one object is spread over several lines"),
        (b"[", ":1: a JSON array instead of one object a line: split it: jq -c"),
        (b"[{", ":1: a JSON array"),
        (b'"text"', ":1: not a JSON object: write one object a line"),
        (b'{"input":"x","y":' + b"[" * 240 + b"]" * 240 + b"}", "nested more than 240 levels deep"),
        (b"[" * 2000, ":1026: not JSON: nested too deep"),
        (b"{}", 'nothing to send: write {"input": "..."}'),
        (b'{"data":[{"input":"a"}],"n":1}', '"custom_id" with "body". It has: data, n'),
        (b'{"text":"x"}', "the line has no \"input\". It has: text. Try --prompt '{text}'"),
        (b'{"q":"why?","id":"abcdefghi","n":1}', "It has: q, id, n. Try --prompt '{q}'"),
        (b'{"my text":"x"}', "It has: my text. Try --prompt '{my text}'"),
        (b'{"input":"\\ud800"}', ":11: not JSON: a broken escape: half of a pair such as"),
        (b'{"custom_id":"a","params":{"messages":[]}}', "Anthropic batch lines need an endpoint with kind=anthropic"),
        (b'{"key":"a","request":{"contents":[]}}', "no endpoint takes gemini.generate requests, all speak openai"),
        (b'{"recordId":"a","modelInput":{}}', "Bedrock InvokeModel batch lines are not supported"),
        (b'{"contents":"x"}', "Try --prompt '{contents}'"),
        (b'{"input": "x"},', ":15: not JSON: a comma behind the object, as in a JSON array: split it"),
        ('\u00a0{"input": "x"}'.encode(), "not JSON: an invisible character (U+00A0) in front of the object"),
        (b'\x1e{"input": "x"}', "not JSON: an invisible character (U+001E) in front of the object"),
    ],
)
def test_a_bad_line_says_where_and_why(text: bytes, place_and_reason: str) -> None:
    """In words that a person can act on."""
    result = failure(text)

    assert result.error.startswith("standard input:17:")
    assert place_and_reason in result.error


def test_a_byte_order_mark_may_stand_before_any_line() -> None:
    """Files were joined that each begin with one. The key is that of the line as it stands."""
    request = PARSERS[0].parse(17, KEY, b'\xef\xbb\xbf{"input":"x"}')

    assert isinstance(request, Request)
    assert (request.input, request.number, request.key) == ("x", 17, KEY)
    assert failure(b"\xef\xbb\xbf").error.startswith("standard input:17:1: not JSON")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_utf16_is_recognised_on_every_line(encoding: str, line_end: str) -> None:
    """With and without a BOM, wherever the zero bytes of the line ends fall, blank lines among them."""
    document = line_end.join(['{"文":"中文中文中文中文"}', '{"input": "x"}', "", '{"input": "é"}', ""])
    splitter = LineSplitter()
    lines = splitter.feed(document.encode(encoding)) + splitter.finish()

    errors = {failure(text).error for _, text in lines}

    assert len(lines) >= 4
    assert errors == {"standard input:17:1: not JSON: it looks like UTF-16: save the file as UTF-8"}


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
@example('{"input": "\u00ff\u00fe')
def test_only_utf16_is_taken_for_it(text: str) -> None:
    """Valid UTF-8 is not, whatever is wrong with it."""
    error = getattr(RequestParser(Settings()).parse(17, KEY, text.encode()), "error", "")

    assert "UTF-" not in error


def test_nesting_up_to_the_limit_is_fine() -> None:
    """The object itself is the first of the 240 levels."""
    text = b'{"input":"x","z":[],"y":' + b"[" * 239 + b"]" * 239 + b"}"

    assert_usable(RequestParser(Settings()).parse(17, KEY, text), text)
    assert isinstance(RequestParser(Settings()).parse(17, KEY, text), Request)


def test_many_brackets_are_not_deep() -> None:
    """A batch of token lists is as flat as it looks."""
    text = b'{"model":"m","input":[' + b",".join([b"[1]"] * 300) + b"]}"

    assert isinstance(RequestParser(Settings()).parse(1, KEY, text), Request)


@pytest.mark.parametrize(
    ("text", "expected_id"),
    [
        (b'{"id":"a"}', "a"),
        (b'{"custom_id":"c","id":5}', "c"),
        (b'{"id":5,"custom_id":null}', 5),
        (b'{"id":true}', 17),
        (b'{"input":"x","custom_id":[1],"id":7}', 7),
        (b"{}", 17),
        (b"{", 17),
    ],
)
def test_a_failure_has_the_id_that_could_be_read(text: bytes, expected_id: str | int) -> None:
    """Else the line number."""
    assert failure(text).line.id == expected_id


@pytest.mark.parametrize(
    ("line", "path", "output_format"),
    [
        (
            {"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "x"}, "model": "m"},
            "embeddings",
            "openai-batch",
        ),
        ({"model": "m", "prompt": "x"}, "completions", "llmblast"),
        ({"model": "m", "input": "x"}, "embeddings", "llmblast"),
        ({"messages": [], "input": "x"}, "chat/completions", "llmblast"),
        ({"input": "x", "custom_id": "a", "params": {"n": 1}}, "chat/completions", "llmblast"),
        ({"prompt": "x", "body": "mine"}, "chat/completions", "llmblast"),
    ],
)
def test_the_format_is_found_for_each_line(line: dict[str, object], path: str, output_format: str) -> None:
    """One file may hold lines of several formats."""
    request = RequestParser(Settings()).parse(1, KEY, orjson.dumps(line))

    assert isinstance(request, Request)
    assert (request.path, request.output_format) == (path, output_format)


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("simple", {"messages": []}, '"input" or "prompt"'),
        ("raw", {"text": "x"}, '"messages", "input" or "prompt"'),
        ("openai-batch", {"input": "x"}, '"custom_id"'),
    ],
)
def test_a_forced_format_is_not_left(name: FormatName, line: dict[str, object], reason: str) -> None:
    """A line of another format is a bad one, and the message says what is missing."""
    assert reason in failure(orjson.dumps(line), Settings(format=name)).error


def test_a_forced_format_takes_what_detection_would_give_to_another() -> None:
    """`model` is then the user's own field; an `input` without a model is then a request body."""
    text = b'{"input":"x","model":"Golf"}'

    simple = RequestParser(Settings(format="simple")).parse(1, KEY, text)
    raw = RequestParser(Settings(format="raw")).parse(1, KEY, b'{"input":"x"}')

    assert isinstance(simple, Request)
    assert isinstance(raw, Request)
    assert simple.extra == {"model": "Golf"}
    assert (raw.path, raw.needs_model, raw.body) == ("embeddings", True, b'{"input":"x"}')


def test_an_oversized_line_is_a_bad_one() -> None:
    """Its record has the key of the whole line, and the start of its text."""
    text = b'{"input":"' + os.urandom(3000).hex().encode() + b'"}'
    ((number, line),) = LineSplitter(max_line_bytes=4000).feed(text + b"\n")

    result = RequestParser(Settings()).parse(number, key_of(line), line)

    assert isinstance(result, Failure)
    assert result.error.startswith("standard input:1:1: the line has 6012 bytes")
    assert (result.line.key, result.line.text, result.code) == (key_of(text), text[:1024], "bad_line")
    assert type(result.line.text) is bytes
