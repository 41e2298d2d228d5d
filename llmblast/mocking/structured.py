"""Values that fit a JSON schema, for structured outputs and the arguments of tool calls.

What a schema may say is in the tables below; anything else is rejected by its place and name instead of being broken.
Sources: https://json-schema.org/draft/2020-12, and for the subset
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.response_numbers import make_number
from llmblast.mocking.response_strings import make_string

Schema = Mapping[str, Any]
_NOTES = {
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
    "strict",
}
"""Say nothing about which values fit."""
_ANYWHERE = {"type", "enum", "const", "anyOf", "$ref", "nullable"}
_BY_TYPE: Mapping[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
_KNOWN = _NOTES | _ANYWHERE | set().union(*_BY_TYPE.values())
_SHALLOW = 6
"""Deeper than this only what a schema demands is made, so that recursive ones come to an end."""
_PLENTY = 200
"""With so many values made, too, since wide schemas grow fast."""
_DEEPEST = 40
_MOST_VALUES = 10_000


class SchemaError(Exception):
    """No value can be made; the message names the place in the schema and the reason."""


def make_value(schema: object, words: list[str], digest: int, place: "Place") -> object:
    """Return a value that fits `schema`, made of `words`. Raises BadRequestError that names `place`."""
    try:
        return _Filler(schema, words, digest).make(schema, (), 0)
    except SchemaError as error:
        raise place.error(str(error)) from None


class Place:
    """Place of a schema in a request: the parameter, its title in messages, and the error's code."""

    def __init__(self, param: str, title: str, code: str | None = None) -> None:
        self._param = param
        self._title = title
        self._code = code

    def error(self, reason: str) -> BadRequestError:
        return BadRequestError(f"Invalid schema for {self._title}: {reason}", self._param, self._code)


class _Filler:
    """Makes one value from the top of a schema down."""

    def __init__(self, root: object, words: list[str], digest: int) -> None:
        self._root = root
        self._words = words
        self._digest = digest
        self._made = 0
        self._makers: Mapping[str, Callable[[Schema, tuple[str, ...], int], object]] = {
            "object": self._object,
            "array": self._array,
            "string": lambda schema, path, depth: self._string(schema, path),
            "integer": lambda schema, path, depth: self._number(schema, path, is_integer=True),
            "number": lambda schema, path, depth: self._number(schema, path, is_integer=False),
            "boolean": lambda schema, path, depth: bool(self._draw(2)),
            "null": lambda schema, path, depth: None,
        }

    def make(self, schema: object, path: tuple[str, ...], depth: int) -> object:
        """Return a value; `path` leads to the schema, `depth` counts schemas around it."""
        self._made += 1
        if depth > _DEEPEST or self._made > _MOST_VALUES:
            raise SchemaError(_at(path) + "the schema demands values without end.")
        if schema is True:
            return self._string({}, path)
        if not isinstance(schema, dict):
            raise SchemaError(f"{_at(path)}{schema!r:.60} is not of type 'object'.")
        schema = self._resolve(schema, path)
        self._check_keywords(schema, path)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._pick(schema, path)
        if "anyOf" in schema:
            return self._any_of(schema, path, depth)
        return self._makers[_type_of(schema, path, wants_little=self._wants_little(depth))](schema, path, depth)

    def _resolve(self, schema: Schema, path: tuple[str, ...]) -> Schema:
        """Put what a reference stands for in its place; what stands beside it counts more."""
        for _ in range(_DEEPEST):
            if "$ref" not in schema:
                return schema
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = {**self._look_up(schema["$ref"], path), **rest}
        raise SchemaError(f"{_at(path)}'$ref' leads to itself.")

    def _look_up(self, reference: object, path: tuple[str, ...]) -> Schema:
        target: Any = self._root
        parts = str(reference).split("/")
        for part in parts[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        if parts[0] != "#" or not isinstance(target, dict):
            raise SchemaError(f"{_at(path)}reference can only point to definitions in the schema: {reference!r}.")
        return target

    def _check_keywords(self, schema: Schema, path: tuple[str, ...]) -> None:
        for name in schema:
            if name not in _KNOWN:
                raise SchemaError(f"{_at(path)}'{name}' is not permitted: the mock provider does not support it.")

    def _pick(self, schema: Schema, path: tuple[str, ...]) -> object:
        values = schema["enum"]
        if not isinstance(values, list):
            raise SchemaError(f"{_at(path)}'enum' must be an array.")
        kinds = schema.get("type")
        fitting = [value for value in values if kinds is None or _is_of(value, kinds)]
        if not fitting:
            raise SchemaError(f"{_at(path)}no value of 'enum' is of the schema's type.")
        return fitting[self._draw(len(fitting))]

    def _any_of(self, schema: Schema, path: tuple[str, ...], depth: int) -> object:
        branches = schema["anyOf"]
        if not isinstance(branches, list) or not branches:
            raise SchemaError(f"{_at(path)}'anyOf' must be an array that is not empty.")
        rest = {name: value for name, value in schema.items() if name not in {"anyOf", *_NOTES}}
        index = 0
        if self._wants_little(depth):
            index = min(range(len(branches)), key=lambda index: _size(branches[index]))
        branch = branches[index]
        if rest and isinstance(branch, dict):
            clashing = {name for name in rest.keys() & branch.keys() if rest[name] != branch[name]}
            if clashing:
                raise SchemaError(f"{_at(path)}'{min(clashing)}' stands beside 'anyOf' and in it.")
            branch = {**rest, **branch}
        return self.make(branch, (*path, "anyOf", str(index)), depth + 1)

    def _object(self, schema: Schema, path: tuple[str, ...], depth: int) -> object:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise SchemaError(f"{_at(path)}'properties' must be an object and 'required' an array.")
        others = schema.get("additionalProperties", True)
        made = {}
        for name in [*properties, *(name for name in required if name not in properties)]:
            if self._wants_little(depth) and name not in required:
                continue
            if name not in properties and others is False:
                raise SchemaError(f"{_at(path)}'required' names '{name}', which no property is.")
            made[name] = self.make(properties.get(name, others), (*path, "properties", name), depth + 1)
        return made

    def _array(self, schema: Schema, path: tuple[str, ...], depth: int) -> object:
        fewest, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not _are_numbers(fewest, most) or fewest > most:
            raise SchemaError(f"{_at(path)}no array fits 'minItems' and 'maxItems'.")
        usual = 0 if self._wants_little(depth) else 2
        count = int(min(max(usual, fewest), most))
        items = schema.get("items", True)
        return [self.make(items, (*path, "items"), depth + 1) for _ in range(count)]

    def _string(self, schema: Schema, path: tuple[str, ...]) -> str:
        start = self._draw(len(self._words))
        words = (self._words[start:] + self._words[:start])[: 1 + self._draw(4)]
        try:
            return make_string(schema, " ".join(words))
        except ValueError as error:
            raise SchemaError(f"{_at(path)}{error}") from None

    def _number(self, schema: Schema, path: tuple[str, ...], *, is_integer: bool) -> float:
        try:
            return make_number(schema, self._draw(100), is_integer=is_integer)
        except ValueError as error:
            raise SchemaError(f"{_at(path)}{error}") from None

    def _wants_little(self, depth: int) -> bool:
        return depth > _SHALLOW or self._made > _PLENTY

    def _draw(self, count: int) -> int:
        """Return a number below `count`, another one each time."""
        self._digest = (self._digest * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._digest >> 33) % count


def _type_of(schema: Schema, path: tuple[str, ...], *, wants_little: bool = False) -> str:
    """Return the type that a value is to have; where a schema names none, the one that its keywords are about."""
    kinds = schema.get("type")
    if kinds is None:
        return next((kind for kind, names in _BY_TYPE.items() if names & schema.keys()), "string")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _BY_TYPE:
            raise SchemaError(f"{_at(path)}{kind!r} is not a known type.")
    if not kinds:
        raise SchemaError(f"{_at(path)}'type' names no type.")
    if wants_little and "null" in kinds:
        return "null"
    return str(next((kind for kind in kinds if kind != "null"), "null"))


def _size(branch: object) -> int:
    """Order branches by how much they lead to: null, then single values, then the rest."""
    if not isinstance(branch, dict) or "$ref" in branch or branch.get("type") in ("object", "array"):
        return 2
    return 0 if branch.get("type") == "null" else 1


def _is_of(value: object, kinds: object) -> bool:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = "null" if value is None else names[type(value)]
    known = kinds if isinstance(kinds, list) else [kinds]
    return name in known or (name == "integer" and "number" in known)


def _are_numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _at(path: tuple[str, ...]) -> str:
    return f"In context={path!r}, "
