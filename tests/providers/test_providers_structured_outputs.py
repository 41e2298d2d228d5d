"""Structured outputs and conversations: the form of each API for a schema, and for asking again."""

from typing import Any

import orjson
import pytest

from llmblast.models import Prompt
from llmblast.providers import PROVIDERS
from llmblast.providers.conversations import ask_again, with_model
from llmblast.providers.structured_outputs import schema_in_chat, schema_in_messages, schema_members

CLOSED: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "oneOf": [{}]}


def rendered(kind: str, params: dict[str, Any], schema: dict[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(PROVIDERS[kind].render(Prompt("Why?", "S", (), params, schema=schema))[1])
    return body


def test_a_prompt_asks_for_the_schema_in_the_form_of_each_api() -> None:
    """OpenAI's response_format, Anthropic's output_config."""
    chat, messages = rendered("openai", {"seed": 1}, CLOSED), rendered("anthropic", {"top_k": 1}, CLOSED)

    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": CLOSED, "strict": True},
    }
    assert chat["seed"] == 1
    assert messages["output_config"] == {"format": {"type": "json_schema", "schema": CLOSED}}
    assert "response_format" not in rendered("openai", {}, None)
    assert "output_config" not in rendered("anthropic", {}, None)


def test_apis_that_translate_parameters_get_the_schema_like_one() -> None:
    gemini, responses = rendered("gemini", {"seed": 1}, CLOSED), rendered("openai-responses", {}, CLOSED)
    bedrock = rendered("bedrock", {"max_tokens": 1}, CLOSED)

    assert gemini["generationConfig"]["responseJsonSchema"] == CLOSED
    assert responses["text"]["format"] == {"type": "json_schema", "name": "answer", "schema": CLOSED, "strict": True}
    structure = bedrock["outputConfig"]["textFormat"]["structure"]
    assert orjson.loads(structure["jsonSchema"]["schema"]) == CLOSED


def test_a_form_among_the_parameters_counts_more() -> None:
    """For a server that knows another one."""
    wanted = {"type": "json_object"}

    assert rendered("openai", {"response_format": wanted}, CLOSED)["response_format"] == wanted
    assert rendered("anthropic", {"output_config": {"effort": "low"}}, CLOSED)["output_config"] == {"effort": "low"}


def test_a_schema_that_changes_is_rendered_again() -> None:
    """Parts of a body are kept from one prompt to the next."""
    for kind, name in (("openai", "response_format"), ("anthropic", "output_config")):
        first = rendered(kind, {}, CLOSED)
        rendered(kind, {}, OPEN)
        assert rendered(kind, {}, CLOSED)[name] == first[name]


@pytest.mark.parametrize(
    ("change", "strict"),
    [
        ({}, True),
        ({"description": "About"}, True),
        ({"additionalProperties": True}, False),
        ({"required": ["a"]}, False),
        ({"oneOf": [{}]}, False),
        ({"properties": {**CLOSED["properties"], "a": {"type": "object", "properties": {"x": {}}}}}, False),
        ({"properties": {**CLOSED["properties"], "a": {"anyOf": [{"type": "string", "not": {}}]}}}, False),
        ({"properties": {**CLOSED["properties"], "a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, True),
        ({"$defs": {"x": {"type": "object"}}}, False),
    ],
)
def test_strict_is_asked_for_where_the_api_allows_it(change: dict[str, Any], strict: bool) -> None:
    """Elsewhere it would be a 400."""
    _, value = schema_in_chat({**CLOSED, **change})

    assert isinstance(value, dict)
    assert value["json_schema"]["strict"] is strict


def test_anthropic_gets_what_it_knows_of_a_schema() -> None:
    """The rest is checked here; the schema itself stays as it is."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "minLength": 3, "format": "email"},
            "b": {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
            "c": {"type": "array", "items": {"type": "object", "properties": {"format": {"type": "string"}}}},
            "d": {"type": "string", "format": "color"},
        },
    }
    before = orjson.dumps(schema)

    _, value = schema_in_messages(schema)

    assert value == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {
                    "a": {"type": "string", "format": "email"},
                    "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "c": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"format": {"type": "string"}},
                            "additionalProperties": False,
                        },
                    },
                    "d": {"type": "string"},
                },
                "additionalProperties": False,
            },
        }
    }
    assert orjson.dumps(schema) == before


def test_members_for_raw_bodies_are_json() -> None:
    """By dialect."""
    members = schema_members(CLOSED)

    assert {name: list(orjson.loads(b"{%b}" % member)) for name, (_, member) in members.items()} == {
        "openai.chat": ["response_format"],
        "openai.responses": ["text"],
        "anthropic.messages": ["output_config"],
    }


REASON = "Your answer cannot be used: not JSON. Answer again, with a corrected answer and nothing else."


@pytest.mark.parametrize(("kind", "path"), [("openai", "chat/completions"), ("anthropic", "v1/messages")])
def test_asking_again_adds_the_answer_and_the_reason(kind: str, path: str) -> None:
    """Behind the messages of the line; all else stays."""
    body = b'{"messages":[{"role":"user","content":"Why?"}],"temperature":0}'

    again = orjson.loads(ask_again(kind, path, body, "because", "not JSON."))

    assert again == {
        "messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "because"},
            {"role": "user", "content": REASON},
        ],
        "temperature": 0,
    }


@pytest.mark.parametrize("answer", ["", " \n", None])
def test_an_empty_answer_is_no_turn(answer: object) -> None:
    """Anthropic's API rejects an empty one."""
    again = orjson.loads(ask_again("openai", "chat/completions", b'{"messages":[]}', answer, "not JSON"))

    assert again["messages"] == [{"role": "user", "content": REASON}]


@pytest.mark.parametrize("given", ['"Why?"', '[{"role":"user","content":"Why?"}]'])
def test_asking_again_in_the_responses_api(given: str) -> None:
    """Its input is a text or a list."""
    again = orjson.loads(ask_again("openai", "responses", b'{"input":%b}' % given.encode(), "because", "not JSON"))

    assert [item["role"] for item in again["input"]] == ["user", "assistant", "user"]
    assert again["input"][0]["content"] == "Why?"


def test_an_api_without_turns_gets_the_same_request() -> None:
    """Another draw may fit."""
    assert ask_again("openai", "completions", b'{"prompt":"x"}', "y", "not JSON") == b'{"prompt":"x"}'


@pytest.mark.parametrize("body", [b'{"messages":[]}', b'{"model":"small","messages":[]}'])
def test_a_request_gets_another_model(body: bytes) -> None:
    """Whether it names one or not."""
    assert orjson.loads(with_model(body, "large")) == {"model": "large", "messages": []}
