"""Raw bodies where answers have to fit a schema: they ask for it in the form of their API, unless they have one."""

from typing import Any

import orjson
import pytest

from llmblast.models import Request
from llmblast.provider_contract import SchemaMember
from llmblast.providers import PROVIDERS
from llmblast.providers.structured_outputs import schema_members
from llmblast.reading import RequestParser
from llmblast.settings import Settings

SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
GEMINI = {"contents": [{"parts": [{"text": "Hi"}]}]}
BEDROCK = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
MEMBERS = schema_members(SCHEMA)


def value_of(dialect: str) -> dict[str, Any]:
    member: SchemaMember = MEMBERS[dialect]
    value: dict[str, Any] = orjson.loads(member.value)
    return value


def sent(kind: str, line: dict[str, Any] | bytes) -> bytes:
    text = line if isinstance(line, bytes) else orjson.dumps(line)
    request = RequestParser(Settings(model="m"), [PROVIDERS[kind]], MEMBERS).parse(1, "0" * 16, text)
    assert isinstance(request, Request), request
    return request.body


@pytest.mark.parametrize(
    ("kind", "line", "dialect", "name"),
    [
        ("openai", CHAT, "openai.chat", "response_format"),
        ("openai", {**CHAT, "response_format": None}, "openai.chat", "response_format"),
        ("azure", CHAT, "openai.chat", "response_format"),
        ("openai-responses", {"model": "m", "input": "Hi", "store": False}, "openai.responses", "text"),
        ("anthropic", CHAT, "anthropic.messages", "output_config"),
        ("vertex-anthropic", CHAT, "anthropic.messages", "output_config"),
        ("gemini", GEMINI, "gemini.generate", "generationConfig"),
        ("vertex", {**GEMINI, "generationConfig": {}}, "gemini.generate", "generationConfig"),
        ("bedrock", BEDROCK, "bedrock.converse", "outputConfig"),
    ],
)
def test_a_body_asks_for_the_schema(kind: str, line: dict[str, Any], dialect: str, name: str) -> None:
    """All other members stay."""
    body = orjson.loads(sent(kind, line))

    assert body == {**line, name: value_of(dialect)}


@pytest.mark.parametrize(
    ("kind", "line", "dialect", "name"),
    [
        ("openai-responses", {"model": "m", "input": "Hi", "text": {"verbosity": "low"}}, "openai.responses", "text"),
        ("anthropic", {**CHAT, "output_config": {"effort": "low"}}, "anthropic.messages", "output_config"),
        ("gemini", {**GEMINI, "generationConfig": {"topK": 3}}, "gemini.generate", "generationConfig"),
        ("gemini", {**GEMINI, "generation_config": {"top_k": 3}}, "gemini.generate", "generation_config"),
    ],
)
def test_settings_in_the_member_stay(kind: str, line: dict[str, Any], dialect: str, name: str) -> None:
    body = orjson.loads(sent(kind, line))

    assert body == {**line, name: {**line[name], **value_of(dialect)}}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("openai", {**CHAT, "response_format": {"type": "json_object"}}),
        ("openai", {**CHAT, "guided_json": {"type": "array"}}),
        ("openai", {**CHAT, "structured_outputs": {"regex": "a"}}),
        ("openai-responses", {"model": "m", "input": "Hi", "text": {"format": {"type": "json_object"}}}),
        ("anthropic", {**CHAT, "output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        ("anthropic", {**CHAT, "output_format": {"type": "json_schema", "schema": {}}}),
        ("gemini", {**GEMINI, "generationConfig": {"responseSchema": {"type": "STRING"}}}),
        ("gemini", {**GEMINI, "generation_config": {"response_mime_type": "text/x.enum"}}),
        ("bedrock", {**BEDROCK, "outputConfig": {"textFormat": {"type": "json_schema"}}}),
        ("openai", {"model": "m", "prompt": "Hi"}),
    ],
)
def test_a_form_of_the_line_itself_stays_alone(kind: str, line: dict[str, Any]) -> None:
    """Nor does an API without a form for schemas get one."""
    assert orjson.loads(sent(kind, line)) == line


def test_bytes_beside_the_schema_stay() -> None:
    """Digits and escapes of the line are sent as they are."""
    line = b'{"contents":[{"parts":[{"text":"\\u00e9"}]}],"generationConfig":{"temperature":0.70,"seed":1e2}}'

    body = sent("gemini", line)

    assert b'"\\u00e9"' in body
    assert b'"temperature":0.70,"seed":1e2' in body
