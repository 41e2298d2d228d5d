"""A stream that nobody asked for is read as the reply that it amounts to."""

import json
from collections.abc import Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.providers.reply_errors import read_error
from llmblast.sending import Action, Verdict
from tests.openai_provider import judge

read_answer = DEFAULT_PROVIDER.read_answer

DONE = b"data: [DONE]\n\n"
CALL = {"id": "t1", "type": "function", "function": {"name": "add"}}


def events(*chunks: object, end: bytes = DONE) -> bytes:
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + end


def chunk(delta: object, finish_reason: str | None = None, index: int = 0, **more: object) -> dict[str, object]:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m-2", "choices": [choice], **more}


def read(body: bytes, path: str = "chat/completions") -> tuple[Answer, dict[str, object]]:
    """The answer, and the body that its record would keep."""
    reply = Reply(200, {b"Content-Type": b"text/event-stream"}, body)
    answer = read_answer(Request(1, "0" * 16, b"", "row-1", path=path), reply)
    assert isinstance(answer, Answer), answer
    return answer, orjson.loads(reply.body)


def verdict_on(body: bytes) -> Verdict:
    verdict = judge(Request(1, "0" * 16, b"", "row-1"), Reply(200, body=body), 0.0)
    assert isinstance(verdict, Verdict)
    return verdict


USAGE = {"prompt_tokens": 5, "completion_tokens": 2}
HELLO: Sequence[dict[str, object]] = (chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}))
WHOLE = events(*HELLO, chunk({}, "stop"), {"choices": [], "usage": USAGE})


@pytest.mark.parametrize(
    "body",
    [
        WHOLE,
        WHOLE.replace(b"\n", b"\r\n"),
        WHOLE.replace(b"\n", b"\r"),
        WHOLE.replace(b"\n\n", b"\n"),
        WHOLE.replace(b"data: ", b"data:"),
        WHOLE.replace(b"data: ", b": ping\n\nevent: message\nid: 7\ndata: "),
        b": OPENROUTER PROCESSING\n\n" + WHOLE,
        WHOLE.removesuffix(DONE),
        WHOLE.replace(b',"choices"', b',\ndata: "choices"'),
        events(*HELLO, {"choices": [], "usage": USAGE}),
        events(*HELLO, chunk({}, "stop"), {"choices": [], "x_groq": {"usage": USAGE}}),
        b"".join(orjson.dumps(piece) + b"\n" for piece in (*HELLO, chunk({}, "stop", usage=USAGE))),
    ],
)
def test_the_pieces_of_a_text_are_joined(body: bytes) -> None:
    """Whatever the line ends, comments and other fields are."""
    answer, _ = read(body)

    assert (answer.text, answer.model, answer.says_more) == ("Hello", "m-2", False)
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 2)


def test_a_finish_reason_is_that_of_the_last_chunk() -> None:
    """It says whether the answer was cut off."""
    assert read(events(*HELLO, chunk({}, "length")))[0].finish_reason == "length"


def test_the_pieces_of_tool_calls_are_joined_by_their_index() -> None:
    """As a reply that is not streamed has them."""
    second = {"id": "t2", "type": "function", "function": {"name": "sub", "arguments": "{}"}}
    answer, body = read(
        events(
            chunk({"role": "assistant", "content": None, "tool_calls": [{"index": 0, **CALL}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{"index": 1, **second}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
            chunk({}, "tool_calls"),
        )
    )

    assert (answer.text, answer.finish_reason, answer.says_more) == (None, "tool_calls", True)
    first = {**CALL, "function": {"name": "add", "arguments": '{"a":1}'}}
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [first, second]},
            "finish_reason": "tool_calls",
        }
    ]


def test_tool_calls_that_all_have_the_index_0_are_told_apart_by_their_id() -> None:
    """Some servers send each call whole and number none."""
    calls = [{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]

    _, body = read(events(chunk({"tool_calls": calls}, "tool_calls")))

    assert [call["id"] for call in body["choices"][0]["message"]["tool_calls"]] == ["a", "b"]  # type: ignore[index] # JSON


def test_reasoning_refusals_and_logprobs_are_joined_too() -> None:
    """The body keeps them."""
    answer, body = read(
        events(
            chunk({"role": "assistant", "reasoning_content": "2 "}),
            chunk({"reasoning_content": "and 2"}),
            {"choices": [{"index": 0, "delta": {"content": "4"}, "logprobs": {"content": [{"token": "4"}]}}]},
            {"choices": [{"index": 0, "delta": {"content": "!"}, "logprobs": {"content": [{"token": "!"}]}}]},
            chunk({"refusal": "n"}),
            chunk({"refusal": "o"}, "stop"),
        )
    )

    choice = body["choices"][0]  # type: ignore[index] # JSON
    assert (answer.text, answer.says_more) == ("4!", True)
    assert choice["message"] == {"role": "assistant", "reasoning_content": "2 and 2", "content": "4!", "refusal": "no"}
    assert choice["logprobs"] == {"content": [{"token": "4"}, {"token": "!"}]}


def test_content_may_come_in_parts_and_in_text() -> None:
    """Thinking first, then the answer."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}

    answer, body = read(
        events(chunk({"content": "So"}), chunk({"content": [thinking]}), chunk({"content": " 4"}), chunk({}, "stop"))
    )

    assert (answer.text, answer.says_more) == ("So 4", True)
    assert body["choices"][0]["message"]["content"][1] == thinking  # type: ignore[index] # JSON


def test_several_choices_are_kept_apart() -> None:
    """The text is that of the choice 0, whichever comes first."""
    answer, body = read(
        events(chunk({"content": "b"}, "stop", 1), chunk({"content": "a"}, None, 0), chunk({"content": "a"}, "stop", 0))
    )

    assert (answer.text, answer.says_more) == ("aa", True)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["aa", "b"]  # type: ignore[attr-defined] # JSON


def test_completions_are_joined() -> None:
    """The older API has `text`."""
    chunks = [
        {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        for text, reason in (("4", None), ("2", "stop"))
    ]

    assert read(events(*chunks), "completions")[0].text == "42"


def test_a_whole_message_in_a_chunk_is_taken_whole() -> None:
    """Some send all that there is so far each time, or one event that is the whole reply."""
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}

    assert read(events(*HELLO, whole))[0].text == "Hello"
    assert read(events(whole, end=b""))[0].text == "Hello"


def test_lines_of_ollamas_own_api_are_joined() -> None:
    """One object a line, the last one with the counts."""
    lines = [
        {"model": "q", "message": {"role": "assistant", "content": "Hel"}, "done": False},
        {"model": "q", "message": {"role": "assistant", "content": "lo"}, "done": False},
        {
            "model": "q",
            "message": {"content": ""},
            "done": True,
            "done_reason": "length",
            "prompt_eval_count": 5,
            "eval_count": 2,
        },
    ]

    answer, _ = read(b"\n".join(orjson.dumps(line) for line in lines))

    assert (answer.text, answer.finish_reason, answer.model) == ("Hello", "length", "q")
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 2)


@pytest.mark.parametrize(
    "body",
    [
        events(*HELLO, end=b""),
        events(*HELLO, chunk({}, "stop"), end=b'data: {"choi'),
        events(*HELLO, chunk({}, "stop"), chunk({"content": "x"}, None, 1), end=b""),
        b"".join(orjson.dumps(piece) + b"\n" for piece in HELLO),
        DONE,
        b"event: ping\n\n",
        events({"usage": USAGE}),
        b'data: {"choices": [\n\ndata: oops\n\n',
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(body: bytes) -> None:
    """It is retried, and the body is kept."""
    verdict = verdict_on(body)

    assert (verdict.action, verdict.code, verdict.keeps_body) == (Action.RETRY, "unusable_reply", True)
    assert "HTTP 200 with a stream that" in verdict.message


def test_an_error_in_mid_stream_is_an_error() -> None:
    """Whatever text came before it."""
    error = {"message": "the engine died", "type": "internal"}
    in_a_chunk = events(*HELLO, {"error": error, "choices": [{"delta": {}, "finish_reason": "error"}]})
    in_an_event = events(*HELLO, end=b"event: error\ndata: " + orjson.dumps(error) + b"\n\n")
    in_a_choice = events(*HELLO, chunk({}, "error"))

    assert verdict_on(in_a_chunk).message == "the engine died"
    assert verdict_on(in_an_event).message == "the engine died"
    assert verdict_on(in_a_choice).code == "generation_failed"


def test_a_rate_limit_in_a_stream_is_one() -> None:
    """As it is outside of one."""
    body = events({"error": {"message": "Rate limit reached", "code": 429}}, end=b"")

    assert verdict_on(body).action is Action.PUSH_BACK
    assert read_error(Reply(429, body=body)).message == "Rate limit reached"


def test_a_stream_of_the_responses_api_ends_in_the_whole_reply() -> None:
    """Its last event holds it."""
    response = {"object": "response", "output": [], "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
    body = events(
        {"type": "response.output_text.delta", "delta": "4"}, {"type": "response.completed", "response": response}
    )

    assert read(body)[0].text == "4"


def test_a_long_stream_is_joined_in_no_time() -> None:
    """Its cost grows with its length, not with the square of it."""
    pieces = [chunk({"content": "word "})] * 100_000

    answer, _ = read(events(*pieces, chunk({}, "stop")))

    assert answer.text == "word " * 100_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(json_values, max_size=4), st.sampled_from(["delta", "message", "text", "logprobs", "index", "x"]))
def test_any_chunks_can_be_read(values: list[object], name: str) -> None:
    """Wherever an odd value stands, there is an answer or an error."""
    bodies: list[list[object]] = [
        values,
        [{"choices": value} for value in values],
        [{"choices": [{name: value}]} for value in values],
        [chunk({"content": value, "tool_calls": value, "reasoning": value}) for value in values],
        [chunk({"tool_calls": [{"index": 0, "id": value, "function": value}]}) for value in values],
        [{"done": value, "message": value, "response": value} for value in values],
        [{"type": "response.completed", "response": value} for value in values],
    ]

    for chunks in bodies:
        reply = Reply(200, body=b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in chunks))
        assert isinstance(read_answer(Request(1, "0" * 16, b"", "row-1"), reply), Answer | ReplyError)
