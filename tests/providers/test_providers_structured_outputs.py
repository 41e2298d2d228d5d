"""Structured outputs: the form of each API for a schema."""

from typing import Any

import orjson
import pytest

from llmblast.models import Prompt
from llmblast.providers import PROVIDERS
from llmblast.providers.structured_outputs import SCHEMA_FORMS, schema_members

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
    assert "response_format" not in rendered("openai", {"guided_json": {}}, CLOSED)
    own = {"format": {"type": "json_schema", "schema": OPEN}}
    assert rendered("anthropic", {"output_config": own}, CLOSED)["output_config"] == own
    for params in ({"responseSchema": OPEN}, {"generationConfig": {"response_schema": OPEN}}):
        assert "responseJsonSchema" not in rendered("gemini", params, CLOSED)["generationConfig"]


@pytest.mark.parametrize(
    ("kind", "name", "setting"),
    [
        ("anthropic", "output_config", {"effort": "low"}),
        ("openai-responses", "text", {"verbosity": "low"}),
        ("gemini", "generationConfig", {"topK": 3}),
    ],
)
def test_other_settings_in_the_member_stay(kind: str, name: str, setting: dict[str, Any]) -> None:
    """The schema stands beside them."""
    alone = rendered(kind, {}, CLOSED)[name]

    assert rendered(kind, {name: setting}, CLOSED)[name] == {**setting, **alone}


def test_bedrock_gets_the_keywords_that_it_knows() -> None:
    """It answers 400 to others, and to objects that are open."""
    bedrock = rendered("bedrock", {}, OPEN)

    schema = orjson.loads(bedrock["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    assert schema["properties"] == {"a": {"type": "string"}}
    assert schema["additionalProperties"] is False


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
    value = SCHEMA_FORMS["openai.chat"].make({**CLOSED, **change})

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

    value = SCHEMA_FORMS["anthropic.messages"].make(schema)

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

    assert {name: (member.names[0], *orjson.loads(member.value)) for name, member in members.items()} == {
        "openai.chat": ("response_format", "type", "json_schema"),
        "openai.responses": ("text", "format"),
        "anthropic.messages": ("output_config", "format"),
        "gemini.generate": ("generationConfig", "responseMimeType", "responseJsonSchema"),
        "bedrock.converse": ("outputConfig", "textFormat"),
    }
