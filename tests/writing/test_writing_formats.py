"""Records say everything about an outcome, on one line, whatever it holds."""

import base64
import json
import timeit
import tracemalloc
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Answer, Cause, Failure, Line, Outcome, Reply, Request, Success
from llmblast.writing import FORMATS, render
from tests.writing.writing_samples import BODY, a_failure, a_success

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63, 2**70)
    | st.floats()
    | st.text(st.characters())  # lone surrogates among them
)
NAMES = st.text(st.characters(), max_size=8) | st.sampled_from(["key", "line", "id", "response", "body", "fields"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))
BODIES = st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value, indent=1).encode())


def the_record(outcome: Outcome, echo: bool = True, body: str = "auto") -> dict[str, Any]:
    """The parsed record; asserts what holds for every one."""
    line = render(outcome, echo, body)
    assert line.startswith(b'{"key":"')
    assert line.endswith(b"\n")
    assert len(line.splitlines()) == 1
    record: dict[str, Any] = orjson.loads(line)
    return record


def test_a_success_has_the_members_of_the_default_format_in_order() -> None:
    """The order is part of the format, `key` first."""
    assert list(the_record(a_success()).items()) == [
        ("key", "0000000000000001"),
        ("line", 1),
        ("id", "row-1"),
        ("input", "2+2?"),
        ("response", "4"),
        ("finish_reason", "stop"),
        ("usage", {"prompt_tokens": 3, "completion_tokens": 1}),
        ("model", "m"),
        ("endpoint", "gpu1"),
        ("attempts", 1),
        ("latency", 0.0004),
    ]


def test_the_input_can_be_left_out() -> None:
    """`--no-echo` holds for both files."""
    assert "input" not in the_record(a_success(), echo=False)
    assert "input" not in the_record(a_failure(), echo=False)


@pytest.mark.parametrize(
    ("mode", "says_more", "is_there"),
    [("always", False, True), ("auto", False, False), ("auto", True, True), ("never", True, False)],
)
def test_the_raw_reply_is_added_when_it_is_asked_for(mode: str, says_more: bool, is_there: bool) -> None:
    """`--body auto` adds it where it says more than the text."""
    record = the_record(a_success(says_more=says_more), body=mode)

    assert ("body" in record) is is_there


def test_the_raw_reply_is_copied_byte_for_byte() -> None:
    """Numbers keep their spelling, which parsing and dumping would change."""
    body = b'{"seed":123456789012345678901234567890,"p":1.00}'

    assert b'"body":' + body in render(a_success(body=body), body="always")


def test_a_reply_of_several_lines_becomes_one_line() -> None:
    """Line ends and indentation go, the text in it stays as it is."""
    body = b'{\r\n  "a": "x\\n  y",\n\t"n": 123456789012345678901234567890\n}\n'

    assert b'"body":{"a": "x\\n  y","n": 123456789012345678901234567890}' in render(a_success(body=body), body="always")


def test_the_users_own_fields_follow_ours() -> None:
    """They come back under their names."""
    assert list(the_record(a_success(extra={"topic": "maths", "n": 1})))[-2:] == ["topic", "n"]


def test_a_field_with_a_name_of_ours_is_kept_aside() -> None:
    """It neither overwrites ours nor gets lost, and neither does a field called `fields`."""
    record = the_record(a_success(extra={"response": "mine", "fields": 1, "body": 2, "topic": "maths"}))

    assert record["response"] == "4"
    assert record["topic"] == "maths"
    assert record["fields"] == {"response": "mine", "fields": 1, "body": 2}


def test_sends_that_may_have_been_billed_are_counted() -> None:
    """Only where there were any."""
    success, failure = a_success(), a_failure()
    success.maybe_billed = 1
    failure.maybe_billed = 2

    assert the_record(success)["maybe_billed"] == 1
    assert the_record(failure)["maybe_billed"] == 2
    assert "maybe_billed" not in the_record(a_success())


def test_an_openai_batch_line_gets_an_openai_batch_record() -> None:
    """Tools made for batch output files can read it."""
    assert list(the_record(a_success(output_format="openai-batch")).items()) == [
        ("key", "0000000000000001"),
        ("line", 1),
        ("id", "batch_req_0000000000000001_1"),
        ("custom_id", "row-1"),
        ("response", {"status_code": 200, "request_id": "req-7", "body": orjson.loads(BODY)}),
        ("error", None),
    ]


def test_an_openai_batch_record_does_without_a_request_id() -> None:
    """Not every server sends one, but the documented type is a text; the rest is as in the default format."""
    success = a_success(output_format="openai-batch", extra={"topic": "maths"})
    success.reply.headers = {b"content-type": b"application/json"}
    success.maybe_billed = 1

    record = the_record(success)

    assert record["response"]["request_id"] == "req_0000000000000001_1"
    assert record["topic"] == "maths"
    assert record["maybe_billed"] == 1


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({b"request-id": b"req_011"}, "req_011"),
        ({b"apim-request-id": b"a-1", b"X-Request-ID": b"x-1"}, "x-1"),
        ({b"x-amzn-RequestId": b"z"}, "z"),
    ],
)
def test_a_request_is_named_as_its_provider_does(headers: dict[bytes, bytes], request_id: str) -> None:
    """Each has its own header."""
    success = a_success(output_format="openai-batch")
    success.reply.headers = headers

    assert the_record(success)["response"]["request_id"] == request_id


def a_batch_failure(reply: Reply | None) -> Failure:
    request = a_success(output_format="openai-batch").request
    request = replace(request, text=b'{"custom_id":"row-1","body":{}}')
    return Failure(request, "HTTP 400: too long", "too_long", 400, False, "gpu1", 1, reply=reply)


def test_a_failed_batch_line_gets_a_batch_record() -> None:
    """As OpenAI's error file and vLLM's run-batch have it; what a person and the next run need comes behind."""
    reply = Reply(400, {b"x-request-id": b"req-9"}, b'{"error":{"message":"too long"}}')

    assert list(the_record(a_batch_failure(reply)).items()) == [
        ("key", "0000000000000001"),
        ("line", 1),
        ("id", "batch_req_0000000000000001_1"),
        ("custom_id", "row-1"),
        ("response", {"status_code": 400, "request_id": "req-9", "body": {"error": {"message": "too long"}}}),
        ("error", {"code": "too_long", "message": "HTTP 400: too long"}),
        ("status", 400),
        ("code", "too_long"),
        ("transient", False),
        ("attempts", 1),
        ("endpoint", "gpu1"),
        ("request", {"custom_id": "row-1", "body": {}}),
    ]


@pytest.mark.parametrize("reply", [None, Reply(cause=Cause.TIMED_OUT)])
def test_a_batch_line_without_a_reply_has_no_response(reply: Reply | None) -> None:
    """The error is all there is; what came of a broken reply is kept."""
    failure = a_batch_failure(reply)
    failure.body = b"half"

    record = the_record(failure)

    assert record["response"] is None
    assert record["error"]["code"] == "too_long"
    assert record["body"] == "half"


@pytest.mark.parametrize(
    ("text", "custom_id"),
    [
        (b'{"custom_id":"a","url":"/v1/nothing","body":{}}', "a"),
        (b'{"custom_id":1,"body":{}}', None),
        (b'{"input":"a \\"custom_id\\" is missing"', None),
        (b'["custom_id"]', None),
    ],
)
def test_a_bad_batch_line_is_one_too(text: bytes, custom_id: str | None) -> None:
    """As long as its custom_id can be read; what is wrong with it is a text, as for every bad line."""
    record = the_record(a_failure(text=text))

    assert record.get("custom_id") == custom_id
    assert ("response" in record) is (custom_id is not None)
    assert record["error"] == "the server is busy"


def test_a_failure_says_what_went_wrong_and_where() -> None:
    """Everything that a person or a second run needs."""
    assert list(the_record(a_failure(body=b"<html>")).items()) == [
        ("key", "0000000000000001"),
        ("line", 1),
        ("id", "row-1"),
        ("input", "2+2?"),
        ("error", "the server is busy"),
        ("status", 503),
        ("code", "server_error"),
        ("transient", True),
        ("attempts", 5),
        ("endpoint", "gpu1"),
        ("body", "<html>"),
        ("request", {"input": "2+2?"}),
    ]


@pytest.mark.parametrize("text", [b'{"input": "x",\r "n": 1.50}', b'["a"]', b"17"])
def test_a_failed_line_of_json_is_kept_as_it_was(text: bytes) -> None:
    """So that errors.jsonl can be run again."""
    assert the_record(a_failure(text=text))["request"] == json.loads(text)


def test_a_failed_line_that_is_no_json_is_kept_as_text() -> None:
    """Without a second copy where the text says it all."""
    record = the_record(a_failure(text='{"input": "ä'.encode()))

    assert record["request"] == '{"input": "ä'
    assert "request_base64" not in record


def test_a_failed_line_that_is_no_utf8_keeps_its_bytes() -> None:
    """The text alone would have lost them."""
    record = the_record(a_failure(text=b'{"input": "\xff"}'))

    assert record["request"] == '{"input": "�"}'
    assert base64.b64decode(record["request_base64"]) == b'{"input": "\xff"}'


def test_surrogate_pairs_are_joined_and_lone_ones_replaced() -> None:
    """JSON in UTF-8 cannot hold a lone surrogate."""
    assert the_record(a_success(text="a\ud83d\ude00b\ud800c"))["response"] == "a😀b�c"


@pytest.mark.parametrize(
    ("value", "digits"),
    [(2**70, str(2**70)), (-(10**200), str(-(10**200))), (10**5000, hex(10**5000))],
    ids=["long", "negative", "endless"],
)
def test_long_integers_keep_all_their_digits(value: int, digits: str) -> None:
    """As a number where a reader can take it as one."""
    line = render(a_success(text=[value]))

    assert digits.encode() in line
    assert orjson.loads(line)["response"]


def test_values_that_json_does_not_know_become_text() -> None:
    """A table's row may bring them."""
    record = the_record(a_success(extra={"raw": b"\xffa", "set": {1}, "nan": float("nan"), "map": {3: (True, None)}}))

    assert record["raw"] == "�a"
    assert record["set"] == "{1}"
    assert record["nan"] is None
    assert record["map"] == {"3": [True, None]}


def nested(depth: int) -> list[Any]:
    """A list in a list, `depth` deep."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_deep_nesting_goes_on_as_text() -> None:
    """orjson writes 254 levels only."""
    record = the_record(a_success(text=nested(400)))

    assert "[" * 300 in json.dumps(record["response"])


def test_endless_nesting_is_given_up() -> None:
    """Python itself cannot write what contains itself."""
    endless: list[Any] = []
    endless.append(endless)

    assert "(nested too deeply)" in json.dumps(the_record(a_success(text=endless))["response"])


@pytest.mark.parametrize("depth", [1021, 1022, 1023, 1024, 1025])
def test_a_reply_that_is_nested_too_deeply_to_read_again_becomes_text(depth: int) -> None:
    """A record must be readable by the same parser."""
    body = b"[" * depth + b"]" * depth

    for output_format in FORMATS:
        assert the_record(a_success(body=body, output_format=output_format), body="always")


def test_an_unknown_format_does_not_lose_the_answer() -> None:
    """It is written in the default one."""
    assert the_record(a_success(output_format="?"))["response"] == "4"


@given(
    text=VALUES,
    extra=st.dictionaries(NAMES, VALUES, max_size=4),
    body=BODIES,
    output_format=st.sampled_from(list(FORMATS)),
)
def test_any_answer_becomes_one_line_that_parses(
    text: object, extra: dict[str, object], body: bytes, output_format: str
) -> None:
    """No answer that was paid for is lost over what is in it."""
    request = Request(1, "0" * 16, b"", 1, text, extra, output_format=output_format)
    success = Success(request, Answer(text, str(text), extra), Reply(200, body=body, latency_s=float("nan")), "e")

    record = the_record(success, body="always")

    assert record["key"] == "0" * 16
    assert record["line"] == 1


@given(text=BODIES, error=st.text(st.characters()), body=BODIES, given_input=VALUES)
def test_any_failure_becomes_one_line_that_parses(text: bytes, error: str, body: bytes, given_input: object) -> None:
    """Whatever stood in the line and came back for it."""
    record = the_record(Failure(Line(1, "0" * 16, text, error, given_input), error, error, body=body))

    assert record["status"] == 0
    assert "request" in record


def test_rendering_is_cheap() -> None:
    """It is on the path of every request: 2 us on an idle core, with room here for a busy one."""
    success = a_success(text="hello " * 40)

    assert min(timeit.repeat(lambda: render(success), number=2000, repeat=5)) / 2000 < 20e-6


@pytest.mark.parametrize("outcome", [a_success(), a_success(text="x" * 8000), a_success(text=2**70), a_failure()])
def test_a_record_that_waits_takes_no_more_memory_than_its_bytes(outcome: Outcome) -> None:
    """What may wait is bounded by bytes: nothing of what it was made in is kept beside it."""
    render(outcome)
    tracemalloc.start()
    try:
        record = render(outcome)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept_bytes < 1.5 * len(record)
