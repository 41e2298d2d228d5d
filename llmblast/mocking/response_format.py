"""The parameter `response_format`: text, any JSON object, or an object that fits a schema."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmblast.mocking.checks import text as check_text
from llmblast.mocking.error_replies import invalid_choice, invalid_type, missing
from llmblast.mocking.structured import Place


@dataclass(frozen=True, slots=True)
class Format:
    """A schema for the answer; without one, any object will do."""

    schema: object | None = None
    place: Place | None = None


def read_format(asked: Mapping[str, object]) -> Format | None:
    """Return the JSON that is asked for; None for plain text. Raises BadRequestError."""
    value = asked.get("response_format")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid_type("response_format", "an object", value)
    kind = value.get("type")
    if kind is None:
        raise missing("response_format.type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Format()
    if kind == "json_schema":
        return _read_schema(value.get("json_schema"))
    raise invalid_choice("response_format.type", kind, ("text", "json_object", "json_schema"))


def _read_schema(wrapped: object) -> Format:
    name = "response_format.json_schema"
    if wrapped is None:
        raise missing(name)
    if not isinstance(wrapped, dict):
        raise invalid_type(name, "an object", wrapped)
    if wrapped.get("name") is None:
        raise missing(f"{name}.name")
    check_text(wrapped["name"], f"{name}.name")
    schema = wrapped.get("schema")
    if schema is None:
        return Format()
    if not isinstance(schema, dict):
        raise invalid_type(f"{name}.schema", "an object", schema)
    return Format(schema, Place("response_format", f"response_format '{wrapped['name']}'"))
