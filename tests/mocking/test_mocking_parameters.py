"""What a request may ask for: each parameter's range, and the 400 that names the one that is wrong."""

from typing import Any

import orjson
import pytest

from llmblast.mocking.answers import Answers
from llmblast.mocking.settings import MockSettings

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Count the ships"}]}


def ask(operation: str, settings: MockSettings | None = None, **asked: Any) -> tuple[int, Any]:
    """Status and parsed body of the reply to a body made of `asked`."""
    answer = Answers(settings or MockSettings()).answer(operation, orjson.dumps(asked))
    return answer.status, orjson.loads(answer.body)


def refusal(operation: str, **asked: Any) -> tuple[str, str | None, str]:
    """The message, parameter and code of a 400."""
    status, reply = ask(operation, **asked)
    assert status == 400, reply
    error = reply["error"]
    assert error["type"] == "invalid_request_error"
    return error["message"], error["param"], error["code"]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("frequency_penalty", -2, 2),
        ("presence_penalty", -2, 2),
        ("n", 1, 128),
    ],
)
def test_a_number_has_its_range(name: str, low: Any, high: Any) -> None:
    """Both ends are inside, what is beyond is rejected in OpenAI's words."""
    kind = "integer" if name == "n" else "decimal"

    assert ask("chat/completions", **CHAT, **{name: low})[0] == 200
    assert ask("chat/completions", **CHAT, **{name: high})[0] == 200
    assert refusal("chat/completions", **CHAT, **{name: low - 1}) == (
        f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got {low - 1} instead.",
        name,
        f"{kind}_below_min_value",
    )
    assert refusal("chat/completions", **CHAT, **{name: high + 1})[1:] == (name, f"{kind}_above_max_value")


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens", "invalid_type"),
        ({"max_tokens": 9, "max_completion_tokens": 9}, "max_tokens", "invalid_parameter_combination"),
        ({"model": 7}, "model", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"user": 5}, "user", "invalid_type"),
        ({"logprobs": 2}, "logprobs", "invalid_type"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"metadata": "x"}, "metadata", "invalid_type"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"store": "yes"}, "store", "invalid_type"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio", "unsupported_parameter"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction", "unsupported_parameter"),
        ({"web_search_options": {"user_location": None}}, "web_search_options", "unsupported_parameter"),
    ],
)
def test_a_chat_parameter_that_will_not_do_is_named(asked: dict[str, object], param: str, code: str) -> None:
    """By its type, its range, or that the mock has no such thing."""
    assert refusal("chat/completions", **CHAT, **asked)[1:] == (param, code)


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "empty_array"),
        ({"prompt": ["a", 5]}, "prompt[1]", "invalid_type"),
        ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
        ({"prompt": [1, -1]}, "prompt[1]", "integer_below_min_value"),
        ({"prompt": [[1], []]}, "prompt[1]", "empty_array"),
        ({"prompt": [[1], "a"]}, "prompt[1]", "invalid_type"),
        ({"prompt": "x", "logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "invalid_type"),
        ({"prompt": "x", "best_of": 21}, "best_of", "integer_above_max_value"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({"prompt": "x", "stream": True, "best_of": 2}, "best_of", "invalid_value"),
        ({"prompt": "x", "echo": 1}, "echo", "invalid_type"),
        ({"prompt": "x", "suffix": 1}, "suffix", "invalid_type"),
        ({"prompt": "x", "messages": []}, "messages", "unknown_parameter"),
    ],
)
def test_a_completion_parameter_that_will_not_do_is_named(asked: dict[str, object], param: str, code: str) -> None:
    """The prompt is texts or token ids, never both."""
    assert refusal("completions", **asked)[1:] == (param, code)


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"input": {"text": "x"}}, "input", "invalid_type"),
        ({"input": "x", "dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"input": "x", "stream": True}, "stream", "unknown_parameter"),
        ({"input": ["x"] * 2049}, "input", "array_above_max_length"),
    ],
)
def test_an_embedding_parameter_that_will_not_do_is_named(asked: dict[str, object], param: str, code: str) -> None:
    """As for the other operations."""
    assert refusal("embeddings", **asked)[1:] == (param, code)


def test_unknown_parameters_are_told_in_openais_words() -> None:
    """All of them at once."""
    assert refusal("chat/completions", **CHAT, top_k=5)[:2] == (
        "Unrecognized request argument supplied: top_k",
        "top_k",
    )
    assert refusal("completions", prompt="x", a=1, b=2)[0] == "Unrecognized request arguments supplied: a, b"


@pytest.mark.parametrize(
    ("operation", "asked"),
    [("chat/completions", CHAT), ("completions", {"prompt": "x"}), ("embeddings", {"input": "x"})],
)
def test_the_name_of_a_line_may_stand_in_a_body(operation: str, asked: dict[str, Any]) -> None:
    """A raw line is sent byte for byte, with its own `id` or `custom_id`."""
    assert ask(operation, **asked, id="row-1", custom_id=7)[0] == 200


def test_null_is_no_value() -> None:
    """Clients that write every field they know are answered as those that leave them out."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("temperature", "n", "stop", "tools", "tool_choice", "response_format", "stream", "logprobs")
    )

    status, reply = ask("chat/completions", **CHAT, **nothing)

    assert status == 200
    assert reply["choices"] == ask("chat/completions", **CHAT)[1]["choices"]


def test_what_only_steers_a_real_model_is_accepted() -> None:
    """The usual answer comes."""
    hints: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "user": "someone",
        "metadata": {"run": "7"},
        "store": True,
        "reasoning_effort": "low",
        "verbosity": "low",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "modalities": ["text"],
        "logit_bias": {},
    }

    _, reply = ask("chat/completions", **CHAT, **hints)

    assert reply["choices"] == ask("chat/completions", **CHAT)[1]["choices"]


@pytest.mark.parametrize(("tier", "told"), [("auto", "default"), ("flex", "flex")])
def test_the_service_tier_is_told(tier: str, told: str) -> None:
    """The one that served the request."""
    assert ask("chat/completions", **CHAT, service_tier=tier)[1]["service_tier"] == told


def test_a_mock_with_a_list_of_models_has_no_others() -> None:
    """404 for another one, 400 for none; without a list any name will do."""
    settings = MockSettings(models="large, small")

    known = ask("chat/completions", settings, **CHAT, model="small")
    unknown = ask("embeddings", settings, input="x", model="tiny")
    none = ask("completions", settings, prompt="x")

    assert (known[0], known[1]["model"]) == (200, "small")
    assert (unknown[0], unknown[1]["error"]["code"]) == (404, "model_not_found")
    assert "`tiny`" in unknown[1]["error"]["message"]
    assert (none[0], none[1]["error"]["message"]) == (400, "you must provide a model parameter")
    assert ask("chat/completions", **CHAT, model="tiny")[0] == 200
