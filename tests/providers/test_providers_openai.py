"""What the OpenAI API says in a reply, and how a target is made."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.providers.reply_errors import read_error
from llmblast.sending import Target
from tests.openai_provider import make_target

read_answer = DEFAULT_PROVIDER.read_answer

KEY = "sk-do-not-show-me"


def read(data: object, path: str = "chat/completions") -> Answer | ReplyError:
    return read_answer(Request(1, "0" * 16, b"", "row-1", path=path), Reply(200, body=orjson.dumps(data)))


def answer_to(data: object, path: str = "chat/completions") -> Answer:
    answer = read(data, path)
    assert isinstance(answer, Answer)
    return answer


def chat(message: object, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}]}


def test_a_chat_completion() -> None:
    """Text, reason, model, usage."""
    data = {
        "id": "c1",
        "model": "m-2",
        **chat({"role": "assistant", "content": "4"}, logprobs=None),
        "usage": {"prompt_tokens": 25, "completion_tokens": 32, "total_tokens": 57},
    }

    answer = answer_to(data)

    assert (answer.text, answer.finish_reason, answer.model, answer.says_more) == ("4", "stop", "m-2", False)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.usage) == (25, 32, data["usage"])


def test_a_completion() -> None:
    """The older API has `text`."""
    answer = answer_to({"choices": [{"text": " 4", "finish_reason": "length", "logprobs": None}]}, "completions")

    assert (answer.text, answer.finish_reason, answer.says_more) == (" 4", "length", False)


def test_embeddings() -> None:
    """One input gives its vector, several give a list of vectors."""
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    one = answer_to({"data": [{"embedding": [0.5, 1]}], "usage": usage}, "embeddings")
    two = answer_to({"data": [{"embedding": [0.5]}, {"embedding": "AAAA"}]}, "embeddings")

    assert (one.text, one.prompt_tokens, one.completion_tokens) == ([0.5, 1], 3, 0)
    assert two.text == [[0.5], "AAAA"]


@pytest.mark.parametrize("data", [[], None, "x", [1], [{}], [{"embedding": None}], [{"embedding": [1]}, {}]])
def test_embeddings_that_are_none(data: object) -> None:
    """A vector that is missing is no answer."""
    assert isinstance(read({"data": data}, "embeddings"), ReplyError)


def embeddings_for(texts: object, *indexes: Any) -> Answer | ReplyError:
    """What comes of vectors with these indexes; the vector of the text n is [n]."""
    items = [{"embedding": [int(index or 0)], "index": index} for index in indexes]
    request = Request(1, "0" * 16, b"", 1, path="embeddings", body=orjson.dumps({"input": texts}))
    return read_answer(request, Reply(200, body=orjson.dumps({"data": items, "usage": {"prompt_tokens": 2}})))


def test_embeddings_come_in_the_order_of_the_texts() -> None:
    """A server may send them in another one, and says by their index whose each is."""
    answer = embeddings_for(["a", "b", "c"], 2, 0, 1)

    assert isinstance(answer, Answer)
    assert answer.text == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("texts", "indexes"),
    [
        ("a", (0,)),
        (["a"], (0,)),
        ([1, 2, 3], (0,)),
        ([[1, 2], [3]], (0, 1)),
        (["a", "b"], (None, None)),
        (None, (0, 1)),
        ([{"text": "a"}, {"image": "b"}], (1, 0)),
    ],
)
def test_there_are_as_many_embeddings_as_texts(texts: object, indexes: tuple[Any, ...]) -> None:
    """A list of tokens is one text; without an index the order is taken as it is."""
    assert isinstance(embeddings_for(texts, *indexes), Answer)


@pytest.mark.parametrize(
    ("texts", "indexes", "message"),
    [
        ("a", (0, 1), "2 embeddings for 1 texts"),
        (["a", "b", "c"], (0, 1), "2 embeddings for 3 texts"),
        ([1, 2, 3], (0, 1, 2), "3 embeddings for 1 texts"),
        ([[1, 2], [3]], (0,), "1 embeddings for 2 texts"),
        (["a", "b"], (0, 0), "indexes"),
        (["a", "b"], (1, 2), "indexes"),
        (["a", "b"], (2, None), "indexes"),
        (["a", "b", "c"], (0, None, None), "indexes"),
        (["a", "b"], ("7", "1"), "indexes"),
        (["a", "b"], (0.5, 1), "indexes"),
    ],
)
def test_embeddings_of_other_texts_are_no_answer(texts: object, indexes: tuple[object, ...], message: str) -> None:
    """A vector must not go to the wrong text."""
    error = embeddings_for(texts, *indexes)

    assert isinstance(error, ReplyError)
    assert message in error.message
    assert (error.code, error.has_usage) == ("wrong_embeddings", True)


@pytest.mark.parametrize("indexes", [(1, 0), ("1", "0"), (1.0, 0.0), (1, None), (None, 0)])
def test_indexes_that_are_clear_are_taken(indexes: tuple[Any, ...]) -> None:
    """Gateways write them as texts, and protocol buffers leave out the one that is 0."""
    items = [{"embedding": [text], "index": index} for text, index in zip((8, 4), indexes, strict=True)]
    request = Request(1, "0" * 16, b"", 1, path="embeddings", body=b'{"input":["a","b"]}')

    answer = read_answer(request, Reply(200, body=orjson.dumps({"data": items})))

    assert isinstance(answer, Answer)
    assert answer.text == [[4], [8]]


CALL = [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "assistant", "content": None, "tool_calls": CALL}, None),
        ({"content": None, "tool_calls": CALL}, None),
        ({"tool_calls": CALL}, None),
        ({"role": "assistant", "content": "so", "tool_calls": CALL}, "so"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, None),
        ({"role": "assistant", "content": None, "refusal": "I will not."}, None),
        ({"role": "assistant", "content": "4", "reasoning": "2 and 2"}, "4"),
        ({"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}, "4"),
        ({"role": "assistant", "content": None, "audio": {"id": "a1"}}, None),
        ({"role": "assistant", "content": "4", "annotations": [{"type": "url_citation"}]}, "4"),
    ],
)
def test_a_reply_may_say_more_than_its_text(message: object, text: str | None) -> None:
    """Then the record keeps the raw body too."""
    answer = answer_to(chat(message))

    assert (answer.text, answer.says_more) == (text, True)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "4"},
        {"role": "assistant", "content": "4", "refusal": None, "tool_calls": [], "annotations": []},
        {"content": "4"},
    ],
)
def test_a_plain_reply_says_no_more_than_its_text(message: object) -> None:
    """Empty fields say nothing."""
    assert not answer_to(chat(message)).says_more


def test_several_choices_and_logprobs_say_more() -> None:
    """The text is that of the first choice."""
    first, second = chat({"content": "4"})["choices"], chat({"content": "four"})["choices"]
    assert isinstance(first, list)
    assert isinstance(second, list)

    several = answer_to({"choices": first + second})
    with_logprobs = answer_to(chat({"role": "assistant", "content": "4"}, logprobs={"content": []}))

    assert (several.text, several.says_more) == ("4", True)
    assert with_logprobs.says_more


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}


@pytest.mark.parametrize(
    ("content", "text", "says_more"),
    [
        ([{"type": "text", "text": "4"}], "4", False),
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], "42", False),
        ([{"text": "4"}], "4", False),
        ([{"type": "output_text", "text": "4", "annotations": []}], "4", False),
        ([{"type": "output_text", "text": "4", "annotations": [{"url": "x"}]}], "4", True),
        (["4", "2"], "42", False),
        ({"type": "text", "text": "4"}, "4", False),
        ([THINKING, {"type": "text", "text": "4"}], "4", True),
        ([{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "4"}], "4", True),
        ([THINKING], "", True),
    ],
)
def test_content_may_be_a_list_of_parts(content: object, text: str, says_more: bool) -> None:
    """The text is that of the text parts; what else there is stays in the body."""
    answer = answer_to(chat({"role": "assistant", "content": content}))

    assert (answer.text, answer.says_more) == (text, says_more)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (None, None)),
        ("many", (None, None)),
        ([], (None, None)),
        ({}, (None, 0)),
        ({"prompt_tokens": 25}, (25, 0)),
        ({"prompt_tokens": "25", "completion_tokens": 1.5}, (None, 0)),
        ({"prompt_tokens": 25.0, "completion_tokens": 7.0}, (25, 7)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (None, 0)),
        ({"prompt_tokens": None, "completion_tokens": None}, (None, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 7}, (0, 7)),
    ],
)
def test_usage_may_be_missing_or_odd(usage: object, counts: tuple[int | None, int | None]) -> None:
    """Counts are numbers that can be added, or None."""
    answer = answer_to({**chat({"role": "assistant", "content": "4"}), "usage": usage})

    assert (answer.prompt_tokens, answer.completion_tokens) == counts


@pytest.mark.parametrize("choices", [None, {}, "x", [], [None], ["x"], [{}], [{"message": {}}], [{"message": "4"}]])
def test_choices_that_are_none(choices: object) -> None:
    """No text and nothing else is no answer."""
    assert isinstance(read({"choices": choices}), ReplyError)


def test_odd_names_are_left_out() -> None:
    """`model` and `finish_reason` are text or None."""
    answer = answer_to({"model": 7, **chat({"role": "assistant", "content": "4"}, finish_reason={"type": "stop"})})

    assert (answer.model, answer.finish_reason) == (None, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from(["chat/completions", "completions", "embeddings"]))
def test_any_json_can_be_read(value: object, path: str) -> None:
    """Wherever an odd value stands, there is an answer or an error."""
    bodies = [
        value,
        {"error": value},
        {"choices": value, "data": value},
        {"choices": [value], "data": [value]},
        chat(value, finish_reason=value, logprobs=value),
        chat({"content": value, "tool_calls": value, "role": value}),
        {**chat({"content": "4"}), "usage": value, "model": value, "data": [{"embedding": value}]},
        {"error": {"message": value, "code": value, "type": value}},
    ]

    for body in bodies:
        assert isinstance(read(body, path), (Answer, ReplyError))
        assert isinstance(read_error(Reply(400, body=orjson.dumps(body))), ReplyError)


def target(**more: object) -> Target:
    settings = EndpointSettings(url="http://gpu1:8000", name="gpu1", **more)  # type: ignore[arg-type] # its fields
    return make_target(settings, "run-model", KEY)


def test_the_endpoints_model_goes_before_the_runs() -> None:
    """Without either, a body goes as it is."""
    without = make_target(EndpointSettings(url="http://gpu1:8000"), None, None)
    request = Request(1, "0" * 16, b"", 1, body=b'{"a":1}', needs_model=True)

    assert target(model='mine "8b"').body_of(request) == b'{"model":"mine \\"8b\\"","a":1}'
    assert target().body_of(request) == b'{"model":"run-model","a":1}'
    assert without.body_of(request) == b'{"a":1}'
    assert "Authorization" not in without.headers


def test_an_endpoints_headers_go_before_ours() -> None:
    """Whatever their case: a header that stands twice would be refused."""
    headers = target(headers={"authorization": "Basic x", "accept": "*/*", "x-team": "search"}).headers

    assert headers["authorization"] == "Basic x"
    assert headers["x-team"] == "search"
    assert len({name.lower() for name in headers}) == len(headers)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "HOST", "Connection"])
def test_headers_that_frame_a_message_are_ours(name: str) -> None:
    """A second one would let requests be taken for one another."""
    with pytest.raises(UsageError, match=f"endpoint gpu1: the header {name} is set by llmblast itself"):
        target(headers={name: "1"})


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nY: b"), ("X\r\nY", "b"), ("", "b"), ("X:", "b"), ("X", "é"), ("é", "b")]
)
def test_a_header_cannot_bring_another_one(name: str, value: str) -> None:
    """The value, which may be a secret, is not repeated."""
    with pytest.raises(UsageError, match=r"endpoint gpu1: the header .* or its value has wrong characters") as caught:
        target(headers={name: f"{KEY}{value}"})

    assert KEY not in str(caught.value)


def test_a_key_is_not_in_a_targets_repr() -> None:
    """Nor are other headers, which may be as secret."""
    assert "gpu1" in repr(target())
    assert KEY not in repr(target(headers={"x-secret": KEY}))
