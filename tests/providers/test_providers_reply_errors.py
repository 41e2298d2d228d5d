"""What is found in the body of an error, in the shapes that servers give it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import MAX_MESSAGE_CHARS, Reply, ReplyError
from llmblast.providers.reply_errors import read_error

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long


def read(body: object) -> ReplyError:
    return read_error(Reply(400, body=body if isinstance(body, bytes) else orjson.dumps(body)))


UPSTREAM = '{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}'
GOOGLE = [
    {
        "error": {
            "code": 400,
            "message": "API key is not valid.",
            "status": "INVALID_ARGUMENT",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
        }
    }
]
SHAPES = {
    "OpenAI": (
        {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
        "too long",
        "context_length_exceeded",
    ),
    "without a code": ({"error": {"message": "no", "type": "server_error", "code": None}}, "no", "server_error"),
    "Anthropic": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"},
        "Overloaded",
        "overloaded_error",
    ),
    "Google, in a list": (GOOGLE, "API key is not valid.", "400"),
    "OpenRouter, with the upstream's JSON": (
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": UPSTREAM}}},
        "Provider returned error: prompt is too long",
        "400",
    ),
    "OpenRouter, with the upstream's text": (
        {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "error code: 1015"}}},
        "Provider returned error: error code: 1015",
        "429",
    ),
    "a proxy's error in an error": (
        {"error": {"error": {"message": "more credits", "code": 402}}},
        "more credits",
        "402",
    ),
    "an error as text in a message": (
        {"error": {"message": UPSTREAM, "code": 400}},
        "prompt is too long",
        "invalid_request_error",
    ),
    "Ollama": ({"error": "model not found"}, "model not found", ""),
    "xAI": ({"code": "permission-denied", "error": "out of credits"}, "out of credits", "permission-denied"),
    "Mistral": (
        {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
        "Rate limit exceeded",
        "1300",
    ),
    "a status that is no code": ({"object": "error", "message": "bad", "code": 400}, "bad", ""),
    "a title and a message": (
        {"error": "Bad Request", "message": "no model", "statusCode": 400},
        "Bad Request: no model",
        "",
    ),
    "FastAPI, a text": ({"detail": "Not Found"}, "Not Found", ""),
    "FastAPI, a list": (
        {
            "detail": [
                {"loc": ["body", "messages", 0], "msg": "field required", "type": "missing", "input": {"secret": 1}},
                {"loc": ["body", "n"], "msg": "not an integer", "type": "int_parsing"},
            ]
        },
        "body.messages.0: field required; body.n: not an integer",
        "missing",
    ),
    "a list of errors": ({"errors": [{"message": "first"}, "second"]}, "first; second", ""),
    "a message that says the same as its errors": (
        {"error": {"message": "Quota used", "errors": [{"message": "Quota used", "reason": "rateLimitExceeded"}]}},
        "Quota used",
        "rateLimitExceeded",
    ),
    "Baidu": ({"error_code": 110, "error_msg": "Access token invalid"}, "Access token invalid", "110"),
    "MiniMax": (
        {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        "rate limit",
        "1002",
    ),
    "a list where a text belongs": ({"error": {"message": ["no"], "code": ["x"]}}, "no", ""),
    "a JSON text": ("not allowed", "not allowed", ""),
    "unknown members": ({"error": {"x": 1}}, '{"error":{"x":1}}', ""),
    "HTML": (b"<html><title>Bad Gateway</title>\n", "Bad Gateway", ""),
    "no text": (b"\xff\xfe", "\ufffd\ufffd", ""),
    "long": (b"x" * 1000, "x" * 300, ""),
    "empty": (b"", "", ""),
    "an empty list": (b"[]", "", ""),
    "an empty object": (b"{}", "", ""),
}


@pytest.mark.parametrize(("body", "message", "code"), SHAPES.values(), ids=SHAPES)
def test_the_message_is_found(body: object, message: str, code: str) -> None:
    """A person has to see it, wherever a server puts it."""
    error = read(body)

    assert (error.message, error.code) == (message, code)


def test_names_are_found_at_any_depth() -> None:
    """Written alike, so that one table fits all providers."""
    assert set(read(GOOGLE).names) == {"400", "invalidargument", "apikeyinvalid"}
    assert "invalidrequesterror" in read(SHAPES["OpenRouter, with the upstream's JSON"][0]).names


@pytest.mark.parametrize("body", [{"error": {"message": "x" * 9000}}, {"errors": ["y" * 1999, "z" * 1999]}])
def test_a_message_is_bounded(body: object) -> None:
    """Some servers repeat the whole prompt."""
    assert len(read(body).message) <= MAX_MESSAGE_CHARS


KEYS = ("error", "errors", "message", "detail", "code", "type", "status", "metadata", "raw", "base_resp", "status_code")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(json_values.map(orjson.dumps) | json_values.map(lambda value: orjson.dumps(orjson.dumps(value).decode())))
def test_any_json_can_be_read(body: bytes) -> None:
    """Texts are texts, wherever odd values stand."""
    error = read(body)

    assert isinstance(error.message, str)
    assert isinstance(error.code, str)
    assert all(isinstance(name, str) for name in error.names)


def test_an_error_without_end_is_read_in_bounded_steps() -> None:
    """Nested JSON texts, and lists of lists."""
    text = '{"error":"x"}'
    for _ in range(12):
        text = orjson.dumps({"error": text}).decode()
    wide: object = "x"
    for _ in range(7):
        wide = [wide] * 8

    assert read(text.encode()).message
    assert isinstance(read(orjson.dumps(wide)).message, str)
