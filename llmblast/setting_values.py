"""Values of settings by their kind: a text from the command line, a variable or `--url`, or what a TOML file holds.

Also the words for a value that is not allowed, so that no library's wording reaches a person.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from llmblast.units import DAY_S, parse_count, parse_duration, parse_rate, parse_whole

RATES = {"rps": 1.0, "rpm": 60.0, "rpd": DAY_S, "tpm": 60.0, "itpm": 60.0, "otpm": 60.0}
"""The seconds that each rate's name says."""
DURATIONS = frozenset(
    {"burst", "timeout", "connect_timeout", "max_time", "max_wait", "grace", "disk_wait", "key_refresh"}
)
WHOLE = frozenset({"concurrency", "limit", "max_attempts", "processes"})
COUNTS = frozenset({"weight"})
SWITCHES = frozenset({"adaptive", "overwrite", "force", "echo", "json", "quiet", "verbose"})
TEXTS_OF_NUMBERS = frozenset({"max_errors"})
"""Texts that may look like a number in a TOML file."""
LISTS = frozenset({"own_fields"})
"""Their texts are names with commas between them."""
PATHS = frozenset(
    {"input", "save", "errors", "media_root", "spool", "timeline"}
    | {"key_file", "key_command", "ca_file", "client_cert", "client_key"}
)
"""Any bytes but zero may stand in them."""
NEVER_EMPTY = frozenset(
    {"name", "model", "quota", "key_env", "key_file", "key_command", "ca_file", "client_cert", "client_key"}
)
"""An empty text is a variable of the shell that is not set. With `key_env=` OPENAI_API_KEY would go there."""
MIN_RATE = 1e-6
"""In the unit of its name. A lower one never lets a second request go, and its waits are no finite numbers."""

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_PARTS_OF_SECRET_NAMES = ("key", "token", "secret", "auth", "pass", "bearer", "credential", "proxy", "cert")


class SettingValueError(ValueError):
    """A value is not allowed; the message says why in a few words, without the value."""


def convert(name: str, value: object) -> object:
    """Return the value that setting `name` has, whether it is given as a text or as what it is.

    Raises UnitError or SettingValueError.
    """
    if isinstance(value, str):
        return _checked_rate(name, _from_text(name, value))
    if name in TEXTS_OF_NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (name in RATES or name in DURATIONS or name in COUNTS or name in WHOLE) and not is_number:
        raise SettingValueError("is not a number")
    if isinstance(value, float):
        return _checked_rate(name, _from_float(name, value))
    if name == "params" and not _is_json(value):
        raise SettingValueError("contains nan or inf, which JSON does not allow: remove it")
    return value


def _from_text(name: str, text: str) -> object:
    if name in RATES:
        return parse_rate(text, RATES[name])
    parse = _PARSERS.get(name)
    if parse is not None:
        return parse(text)
    if name in NEVER_EMPTY and not text.strip():
        raise SettingValueError("is empty: write a value, or leave it out")
    if "\0" in text:
        raise SettingValueError("contains a zero byte: remove it")
    if name not in PATHS and not _is_utf8(text):
        raise SettingValueError("is not valid UTF-8: write it in UTF-8")
    return [part for field in text.split(",") if (part := field.strip())] if name in LISTS else text


def _checked_rate(name: str, value: object) -> object:
    if name in RATES and isinstance(value, float) and 0 < value < MIN_RATE:
        raise SettingValueError(f"is not allowed: it must be at least {MIN_RATE:f}")
    return value


def _from_float(name: str, value: float) -> object:
    if not isfinite(value):
        raise SettingValueError("is not a finite number")
    if name in WHOLE and not value.is_integer():
        raise SettingValueError("is not a whole number")
    return int(value) if name in WHOLE else value


def _parse_switch(text: str) -> bool:
    value = _SWITCH.get(text.strip().lower())
    if value is None:
        raise SettingValueError("is neither true nor false")
    return value


_PARSERS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(DURATIONS, parse_duration),
    **dict.fromkeys(WHOLE, parse_whole),
    **dict.fromkeys(COUNTS, parse_count),
    **dict.fromkeys(SWITCHES, _parse_switch),
}


def shown(value: object) -> str:
    """Return a value as a person wrote it, cut short."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "the number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_name(name: str) -> str:
    """Return the name of a setting as it was written, unless a key may stand there by mistake."""
    return name if re.fullmatch(r"[A-Za-z_-]{1,24}", name) else "..."


def may_be_secret(name: str) -> bool:
    """Return whether what stands behind a name is not to be repeated in a message."""
    return any(part in name.lower() for part in _PARTS_OF_SECRET_NAMES)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean NAME?`, or the known names where none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 -- only needed for a person's typing error

    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known are {', '.join(names)}"


def explain(error: Mapping[str, Any]) -> str:
    """Return in a few words what is wrong with a value, for one finding of pydantic."""
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
