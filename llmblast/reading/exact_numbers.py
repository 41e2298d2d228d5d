"""Exact numbers: copy a line's numbers to the record and to the request digit by digit.

orjson reads integers beyond 64 bits and decimals of more than 17 digits as floats, which rounds them, and rejects
numbers larger than any float. Such a number becomes an `orjson.Fragment`, which orjson writes unchanged. Only lines
with a long number, and a float, object or list among the user's own fields, are parsed again. In requests, only
integers beyond the precision of floats matter: providers read other numbers as floats, too.
"""

import json
import re
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import orjson

_MAY_HOLD_FLOATS = (float, dict, list)
_LONG_NUMBER = re.compile(rb"[0-9](?:[0-9.]{15}|[eE][+-]?[0-9]{3})")
_EXACT_FLOAT_CHARS = 16
"""A float keeps a decimal of 15 digits exactly."""
_MAX_INT_CHARS = 20
_TOO_LARGE_FOR_A_FLOAT = "infinity"
_HUGE = 2.0**53


def with_exact_integers(text: bytes, name: str, sent: dict[str, object]) -> dict[str, object]:
    """Return `sent`, the member `name` of the line `text`, with exact integers where floats would round them."""
    if not _holds_huge_numbers(sent.values()):
        return sent
    exact = with_exact_numbers(text, {name: sent})[name]
    return exact if isinstance(exact, dict) else sent


def _holds_huge_numbers(sent: Iterable[Any]) -> bool:
    """Search all values except lists that begin with a text or an integer, such as a thousand token ids."""
    level = [sent]
    while level:
        deeper = []
        for values in level:
            kinds = set(map(type, values))
            if kinds.isdisjoint(_MAY_HOLD_FLOATS):
                continue
            for item in values:
                kind = type(item)
                if kind is dict:
                    deeper.append(item.values())
                elif kind is list and item and type(item[0]) in _MAY_HOLD_FLOATS:
                    deeper.append(item)
                elif kind is float and abs(item) >= _HUGE:
                    return True
        level = deeper
    return False


def with_exact_numbers(text: bytes, fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return `fields` of the line `text`, with fragments for all numbers that floats would round."""
    if not any(type(value) in _MAY_HOLD_FLOATS for value in fields.values()) or not _LONG_NUMBER.search(text):
        return fields
    try:
        exact = _parse(text)
    except (ValueError, RecursionError):
        return fields
    return {name: exact[name] for name in fields} if isinstance(exact, dict) else fields


def read_huge_numbers(text: bytes, error: orjson.JSONDecodeError) -> object:
    """Return the value of a line that orjson rejects only for a number too large for a float, else None."""
    if _TOO_LARGE_FOR_A_FLOAT not in error.msg:
        return None
    try:
        value = _parse(text)
        orjson.dumps(value)
    except (ValueError, RecursionError, orjson.JSONEncodeError):
        return None
    return value


def _parse(text: bytes) -> object:
    return json.loads(text, parse_float=_read_float, parse_int=_read_int, parse_constant=_refuse)


def _read_float(text: str) -> float | orjson.Fragment:
    value = float(text)
    is_exact = isfinite(value) and (repr(value) == text or (len(text) <= _EXACT_FLOAT_CHARS and "." in text))
    return value if is_exact and "e" not in text.lower() else orjson.Fragment(text)


def _read_int(text: str) -> int | orjson.Fragment:
    if len(text) <= _MAX_INT_CHARS and -(2**63) <= int(text) < 2**64:
        return int(text)
    return orjson.Fragment(text)


def _refuse(text: str) -> object:
    raise ValueError(text)
