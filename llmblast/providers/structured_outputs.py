"""Structured outputs: how each API is asked for an answer that fits a JSON Schema.

An API that has a form for it is one line in `SCHEMA_FORMS`. The others get the prompt alone; answers are checked here
in any case. A request that has a form of its own keeps it.

Sources: https://platform.openai.com/docs/guides/structured-outputs (chat: `response_format`, Responses: `text.format`),
https://platform.claude.com/docs/en/build-with-claude/structured-outputs (`output_config.format`),
https://ai.google.dev/api/generate-content (`generationConfig`),
https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html (`outputConfig.textFormat`),
https://docs.vllm.ai/en/latest/features/structured_outputs.html, and
`transform_schema` in https://github.com/anthropics/anthropic-sdk-python/blob/main/src/anthropic/lib/_parse/_transform.py
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import orjson

from llmblast.provider_contract import SchemaMember

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


class _Form(NamedTuple):
    """Form of one dialect: spellings of the member, what makes its value, and members that are forms of their own, in
    the body and inside that member.
    """

    names: tuple[str, ...]
    make: Callable[[Schema], Schema]
    own: frozenset[str] = frozenset()
    own_inside: frozenset[str] = frozenset()


def _in_chat(schema: Schema) -> Schema:
    return {"type": "json_schema", "json_schema": _openai_form(schema)}


def _in_responses(schema: Schema) -> Schema:
    return {"format": {"type": "json_schema", **_openai_form(schema)}}


def _in_messages(schema: Schema) -> Schema:
    return {"format": {"type": "json_schema", "schema": _anthropic_form(schema)}}


def _in_contents(schema: Schema) -> Schema:
    return {"responseMimeType": "application/json", "responseJsonSchema": schema}


def _in_converse(schema: Schema) -> Schema:
    named = {"schema": orjson.dumps(_anthropic_form(schema)).decode(), "name": _NAME}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": named}}}


_OWN_IN_CHAT: Final = frozenset(
    (
        *("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        *("grammar", "json_schema", "regex", "ebnf"),
    )
)
"""Also the parameters of vLLM, llama.cpp and SGLang."""
_OWN_IN_CONFIG: Final = frozenset(
    (
        *("responseSchema", "responseJsonSchema", "responseMimeType", "responseFormat"),
        *("response_schema", "response_json_schema", "response_mime_type", "response_format"),
    )
)
_FORMAT: Final = frozenset(("format",))
SCHEMA_FORMS: Final[Mapping[str, _Form]] = {
    "openai.chat": _Form(("response_format",), _in_chat, _OWN_IN_CHAT),
    "openai.responses": _Form(("text",), _in_responses, own_inside=_FORMAT),
    "anthropic.messages": _Form(("output_config",), _in_messages, frozenset(("output_format",)), _FORMAT),
    "gemini.generate": _Form(("generationConfig", "generation_config"), _in_contents, own_inside=_OWN_IN_CONFIG),
    "bedrock.converse": _Form(("outputConfig",), _in_converse, own_inside=frozenset(("textFormat",))),
}
"""By dialect of the request."""


def with_schema(params: Schema, schema: Schema | None, dialect: str) -> Schema:
    """Return the parameters of a prompt, which may be those of chat requests, with the dialect's member for the schema.

    They stay as they are where they ask for a form of the answer themselves, by the names of either API.
    """
    if schema is None:
        return params
    form = SCHEMA_FORMS[dialect]
    name = next((name for name in form.names if name in params), form.names[0])
    inside = params.get(name)
    if _has(params, form.own | form.own_inside | _OWN_IN_CHAT):
        return params
    if inside is None:
        return {**params, name: form.make(schema)}
    if not isinstance(inside, Mapping) or _has(inside, form.own_inside):
        return params
    return {**params, name: {**inside, **form.make(schema)}}


def schema_members(schema: Schema) -> Mapping[str, SchemaMember]:
    """Return by dialect the member that raw bodies need for the schema."""
    return {
        dialect: SchemaMember(form.names, orjson.dumps(form.make(schema)), form.own, form.own_inside)
        for dialect, form in SCHEMA_FORMS.items()
    }


def _has(members: Schema, names: frozenset[str]) -> bool:
    return any(members[name] is not None for name in names.intersection(members))


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
