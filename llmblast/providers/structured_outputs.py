"""Structured outputs: how each API is asked for an answer that fits a JSON Schema.

An API that has a form for it is one function and one line in `SCHEMA_MEMBERS`. The others get the prompt alone; answers
are checked here in any case.

Sources: https://platform.openai.com/docs/guides/structured-outputs (chat: `response_format`, Responses: `text.format`),
https://platform.claude.com/docs/en/build-with-claude/structured-outputs (`output_config.format`), and
`transform_schema` in https://github.com/anthropics/anthropic-sdk-python/blob/main/src/anthropic/lib/_parse/_transform.py
"""

from collections.abc import Callable, Mapping
from typing import Final

import orjson

Schema = Mapping[str, object]
_NAME: Final = "answer"
_SHARED_KEYWORDS: Final = frozenset(
    ("type", "properties", "required", "items", "anyOf", "enum", "const", "$ref", "$defs", "title", "description")
)
_NUMBER_KEYWORDS: Final = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_STRICT_KEYWORDS: Final = frozenset(
    (*_SHARED_KEYWORDS, *_NUMBER_KEYWORDS, "additionalProperties", "minItems", "maxItems", "pattern", "format")
)
"""What OpenAI's strict mode takes; any other keyword in a strict schema is an error."""
_ANTHROPIC_KEYWORDS: Final = frozenset((*_SHARED_KEYWORDS, "allOf", "format"))
_ANTHROPIC_FORMATS: Final = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)
_MAPS: Final = ("properties", "$defs")
"""Keywords whose value has schemas by name."""
_LISTS: Final = ("anyOf", "allOf")


def schema_in_chat(schema: Schema) -> tuple[str, object]:
    """Return name and value of the member of a chat request."""
    return "response_format", {"type": "json_schema", "json_schema": _openai_form(schema)}


def schema_in_responses(schema: Schema) -> tuple[str, object]:
    """Return name and value of the member of a request of the Responses API."""
    return "text", {"format": {"type": "json_schema", **_openai_form(schema)}}


def schema_in_messages(schema: Schema) -> tuple[str, object]:
    """Return name and value of the member of a request of Anthropic's Messages API."""
    return "output_config", {"format": {"type": "json_schema", "schema": _anthropic_form(schema)}}


def with_schema(params: Schema, schema: Schema | None) -> Schema:
    """Return parameters that ask for the schema as chat requests do, for providers that translate these."""
    return params if schema is None else dict([schema_in_chat(schema), *params.items()])


SCHEMA_MEMBERS: Final[Mapping[str, Callable[[Schema], tuple[str, object]]]] = {
    "openai.chat": schema_in_chat,
    "openai.responses": schema_in_responses,
    "anthropic.messages": schema_in_messages,
}
"""By dialect of the request."""


def schema_members(schema: Schema) -> Mapping[str, tuple[str, bytes]]:
    """Return by dialect the name of the member that raw bodies need for the schema, and the whole member as JSON."""
    made = {dialect: make(schema) for dialect, make in SCHEMA_MEMBERS.items()}
    return {dialect: (name, orjson.dumps({name: value})[1:-1]) for dialect, (name, value) in made.items()}


def _openai_form(schema: Schema) -> dict[str, object]:
    """Return the schema with its name. `strict` is set where the API allows it: elsewhere it would be an error."""
    return {"name": _NAME, "schema": schema, "strict": schema.get("type") == "object" and _may_be_strict(schema)}


def _may_be_strict(schema: object) -> bool:
    """Return whether a schema has only what the strict mode allows: all properties required, and no others."""
    if not isinstance(schema, dict) or not schema.keys() <= _STRICT_KEYWORDS:
        return False
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    is_object = schema.get("type") == "object" or bool(properties)
    if is_object and (schema.get("additionalProperties") is not False or set(properties) != set(map(str, required))):
        return False
    return all(map(_may_be_strict, _schemas_in(schema)))


def _schemas_in(schema: Mapping[str, object]) -> list[object]:
    found: list[object] = [schema["items"]] if "items" in schema else []
    for name in _MAPS:
        if isinstance(members := schema.get(name), dict):
            found += members.values()
    for name in _LISTS:
        if isinstance(members := schema.get(name), list):
            found += members
    return found


def _anthropic_form(schema: object) -> object:
    """Return the schema as the API takes it: what it does not know is left out, and each object is closed."""
    if not isinstance(schema, Mapping):
        return schema
    taken = {name: value for name, value in schema.items() if name in _ANTHROPIC_KEYWORDS}
    if "oneOf" in schema and "anyOf" not in schema:
        taken["anyOf"] = schema["oneOf"]
    if taken.get("format") not in _ANTHROPIC_FORMATS:
        taken.pop("format", None)
    for name in _MAPS:
        if isinstance(members := taken.get(name), Mapping):
            taken[name] = {key: _anthropic_form(value) for key, value in members.items()}
    for name in _LISTS:
        if isinstance(members := taken.get(name), list):
            taken[name] = [_anthropic_form(value) for value in members]
    if "items" in taken:
        taken["items"] = _anthropic_form(taken["items"])
    if taken.get("type") == "object" or "properties" in taken:
        taken["additionalProperties"] = False
    return taken
