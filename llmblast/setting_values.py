"""Kinds of settings: convert a text of the command line, a variable or `--url`, or a value of a TOML file.

A field of the settings names its kind in its annotation; without one, its type does. This module also words the errors
for values that are not allowed, so that no library's wording reaches a person.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from functools import partial
from math import isfinite
from typing import Any

from llmblast.moments import MIN_UNIX_S, parse_moment
from llmblast.setting_option import parts_of
from llmblast.units import (
    DAY_S,
    UnitError,
    parse_count,
    parse_duration,
    parse_rate,
    parse_share,
    parse_share_or_count,
    parse_whole,
)

MIN_RATE = 1e-6
"""Minimum of a rate, in the unit of its name. Below it, waits between requests are no finite numbers."""

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_PARTS_OF_SECRET_NAMES = ("key", "token", "secret", "auth", "pass", "bearer", "credential", "proxy", "cert")


class SettingValueError(ValueError):
    """A value is not allowed; the message gives the reason in a few words, without the value."""


class Bound:
    """A bound of a number in the annotation of a field, which pydantic checks.

    The classes of the package annotated_types do the same, but `--help` would wait 8 ms for its import.
    """

    constraint = ""
    """The name of the constraint in pydantic's schemas."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Return the schema of the number with the bound: a hook of pydantic."""
        return {**handler(source), self.constraint: self._value}


class Ge(Bound):
    """At least this."""

    constraint = "ge"


class Gt(Bound):
    """More than this."""

    constraint = "gt"


class Lt(Bound):
    """Less than this."""

    constraint = "lt"


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `parse` reads its text, with a unit. Values between 0 and `minimum` are not allowed."""

    parse: Callable[[str], float]
    metavar: str = "N"
    is_whole: bool = False
    minimum: float = 0.0

    def convert(self, value: object) -> object:
        """Return the number that a text or a value of TOML means. Raises UnitError or SettingValueError."""
        if isinstance(value, str):
            return self._check_minimum(self.parse(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SettingValueError("is not a number")
        if isinstance(value, int):
            return value
        if not isfinite(value):
            raise SettingValueError("is not a finite number")
        if self.is_whole and not value.is_integer():
            raise SettingValueError("is not a whole number")
        return int(value) if self.is_whole else self._check_minimum(value)

    def _check_minimum(self, value: float) -> float:
        if 0 < value < self.minimum:
            raise SettingValueError(f"is not allowed: it must be at least {self.minimum:f}")
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """A text. `is_raw` allows any byte but zero, as paths may hold.

    Where a text must not be empty, an empty one is mostly a shell variable that is not set: `key_env=$NAME`.
    """

    metavar: str = "TEXT"
    is_raw: bool = False
    may_be_empty: bool = True

    def convert(self, value: object) -> object:
        """Return the text, checked, or another value as it is. Raises SettingValueError."""
        if not isinstance(value, str):
            return value
        if not self.may_be_empty and not value.strip():
            raise SettingValueError("is empty: write a value, or leave it out")
        if "\0" in value:
            raise SettingValueError("contains a zero byte: remove it")
        if not self.is_raw and not _is_utf8(value):
            raise SettingValueError("is not valid UTF-8: write it in UTF-8")
        return value


class TextOrNumber(Text):
    """A text that a TOML file may hold as a number, too."""

    def convert(self, value: object) -> object:
        """Return the text of a text or a number. Raises SettingValueError."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if is_number else super().convert(value)


class MomentText(Text):
    """A time, also as TOML has it. The text stays: what it means depends on when the run starts."""

    def convert(self, value: object) -> object:
        """Return the text of a time. Raises UnitError."""
        text = str(value) if isinstance(value, datetime | time | int) and not isinstance(value, bool) else value
        if isinstance(text, str):
            if text.strip().isdecimal() and float(text) < MIN_UNIX_S:
                raise SettingValueError(
                    f"is not a time: write 08:00 or 2026-12-01T08:00; seconds from now are --deadline {text.strip()}"
                )
            parse_moment(text, 0.0)
        return super().convert(text)


class NameList(Text):
    """Names, with commas between them in a text."""

    def convert(self, value: object) -> object:
        """Return the list of names in a text, or another value as it is. Raises SettingValueError."""
        text = super().convert(value)
        return [name for part in text.split(",") if (name := part.strip())] if isinstance(text, str) else text


class FileList(Text):
    """Names of files; a single one may stand without a list."""

    def convert(self, value: object) -> object:
        """Return the list of names in a text or a list, or another value as it is. Raises SettingValueError."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        for name in names:
            super().convert(name)
        return list(names)


class NameMap(Text):
    """Names with other names, `NAME=OTHER` with commas between them in a text, in a TOML file a table."""

    def convert(self, value: object) -> object:
        """Return the mapping in a text, or another value as it is. Raises SettingValueError."""
        text = super().convert(value)
        if not isinstance(text, str):
            return text
        names: dict[str, str] = {}
        for pair in filter(None, map(str.strip, text.split(","))):
            name, _, other = (part.strip() for part in pair.partition("="))
            if not name or not other:
                raise SettingValueError("is not a list of names: write NAME=FIELD, such as input=question,id=row")
            if name in names:
                raise SettingValueError(f"names {name} twice: leave one out")
            names[name] = other
        return names


class WeightMap(Text):
    """Names with weights, `NAME=WEIGHT` with commas between them in a text, in a TOML file a table."""

    def convert(self, value: object) -> object:
        """Return the mapping in a text, or another value as it is. Raises SettingValueError."""
        text = super().convert(value)
        if not isinstance(text, str):
            return text
        weights: dict[str, float] = {}
        for pair in filter(None, map(str.strip, text.split(","))):
            name, _, weight = (part.strip() for part in pair.rpartition("="))
            if name in weights:
                raise SettingValueError(f"names {name} twice: leave one out")
            try:
                weights[name] = parse_count(weight)
            except UnitError:
                name = ""
            if not name:
                raise SettingValueError("is not a list of weights: write NAME=WEIGHT, such as a=1,b=2")
        return weights


class JsonObject(Text):
    """A JSON object, in a TOML file a table."""

    def convert(self, value: object) -> object:
        """Return the object. Raises SettingValueError for a number that JSON does not have."""
        if not _is_json(value):
            raise SettingValueError("contains nan or inf, which JSON does not allow: remove it")
        return super().convert(value)


class FileOrObject(JsonObject):
    """The path of a JSON file, or the object that such a file would hold."""


class Switch(Text):
    """True or false."""

    def convert(self, value: object) -> object:
        """Return true or false for a text, or another value as it is. Raises SettingValueError."""
        if not isinstance(value, str):
            return value
        if value.strip().lower() not in _SWITCH:
            raise SettingValueError("is neither true nor false")
        return _SWITCH[value.strip().lower()]


Kind = Number | Text
DURATION = Number(parse_duration, "DURATION")
COUNT = Number(parse_count)
WHOLE = Number(parse_whole, is_whole=True)
SHARE = Number(parse_share, "P%")
SHARE_OR_COUNT = Number(parse_share_or_count, "P%|N")
PER_SECOND, PER_MINUTE, PER_DAY = (
    Number(partial(parse_rate, unit_s=unit_s), minimum=MIN_RATE) for unit_s in (1.0, 60.0, DAY_S)
)
FILE = Text("FILE", is_raw=True)
FILES = FileList("FILE", is_raw=True, may_be_empty=False)
DIRECTORY = Text("DIR", is_raw=True)
NAME = Text("NAME", may_be_empty=False)
RAW_NAME = Text("NAME", is_raw=True, may_be_empty=False)
NAMES = NameList("NAME[,NAME...]")
NAME_MAP = NameMap("NAME=FIELD[,...]")
WEIGHT_MAP = WeightMap("NAME=WEIGHT[,...]")
TEXT_OR_NUMBER = TextOrNumber()
MOMENT = MomentText("TIME")
JSON_OBJECT = JsonObject("JSON")
JSON_FILE = FileOrObject("FILE", is_raw=True, may_be_empty=False)
COMMAND = Text("COMMAND", is_raw=True, may_be_empty=False)
_KIND_OF_TYPE: Mapping[type, Kind] = {bool: Switch(""), int: WHOLE, float: COUNT}


def kind_of(annotation: Any) -> Kind:
    """Return the kind that a field's annotation names, or else that of its type."""
    parts = list(parts_of(annotation))
    named = [part for part in parts if isinstance(part, Number | Text)]
    return next(iter(named), None) or next((kind for type_, kind in _KIND_OF_TYPE.items() if type_ in parts), Text())


def shown(value: object) -> str:
    """Return a value as a person wrote it, shortened to 60 characters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "the number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_name(name: str) -> str:
    """Return the name of a setting as it was written, or `...` where it may be a misplaced key."""
    return name if re.fullmatch(r"[A-Za-z_-]{1,24}", name) else "..."


def may_be_secret(name: str) -> bool:
    """Return whether the name of a setting suggests a secret value, which no message may repeat."""
    return any(part in name.lower() for part in _PARTS_OF_SECRET_NAMES)


def did_you_mean(name: str, known: Iterable[str], suffix: str = "") -> str:
    """Return `; did you mean NAME?`, or the known names where none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 -- only needed for a person's typing error

    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}{suffix}?" if close else f"; known are {', '.join(names)}"


def explain(error: Mapping[str, Any]) -> str:
    """Return in a few words why pydantic rejects a value."""
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{shown(error['input'])} is not allowed: it must be {words} {context[bound]:.13g}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{shown(error['input'])} is not one of {choices}"
    words = _KINDS.get(kind, "is not allowed")
    place: Sequence[Any] = error["loc"]
    is_hidden = may_be_secret(str(place[-1])) or "headers" in place or not isinstance(error["input"], str | int | float)
    return words if is_hidden else f"{shown(error['input'])} {words}"


_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {
    "string_type": "is not a string",
    "string_unicode": "is not valid UTF-8",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is too large",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "dict_type": "is not a table",
    "mapping_type": "is not a table",
    "dataclass_type": "is not a table: write [[endpoints]], and below it url = ...",
    "dataclass_exact_type": "is not a table: write [[endpoints]], and below it url = ...",
    "tuple_type": "is not a list",
    "list_type": "is not a list",
}


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return not isinstance(value, float) or isfinite(value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
