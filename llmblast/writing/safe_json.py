"""Safe JSON: write values and bytes as one line of JSON that always parses again, so that no answer is lost.

orjson rejects lone surrogates, integers beyond 64 bits and deep nesting. Each is replaced here, only when it occurs.
Limits of nesting are orjson's: 254 levels written, 1024 read.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

import orjson

_dumps: Final = orjson.dumps
_INDENTATION: Final = re.compile(rb"[\r\n][ \t\r\n]*")
_MAX_SAFE_BRACKETS: Final = 1000
_MAX_DEPTH: Final = 100


def dump_line(record: Mapping[str, object]) -> bytes:
    """Return the record as one line of JSON with a newline. Never raises for a record.

    Adding the newline makes a copy: orjson's own bytes keep their whole buffer, 4 KiB at least and eight times the
    length of a long text, as long as a record waits.
    """
    try:
        return _dumps(record) + b"\n"
    except orjson.JSONEncodeError:
        return orjson.dumps(_plain(record, 0)) + b"\n"


def embed(data: bytes) -> orjson.Fragment | str:
    """Return JSON bytes without line ends and indentation; anything else as text, with invalid bytes replaced.

    A raw line end cannot stand inside a JSON string (RFC 8259, section 7), so cutting it out changes no value, whereas
    parsing and dumping would round long numbers.
    """
    if not _fits_into_a_record(data):
        return data.decode("utf-8", "replace")
    if b"\n" in data or b"\r" in data:
        data = _INDENTATION.sub(b"", data)
    return orjson.Fragment(data)


def is_json(data: bytes) -> bool:
    """Return whether orjson reads the bytes."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def load_object(data: bytes) -> dict[str, object]:
    """Return the members of a JSON object; none of anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _fits_into_a_record(data: bytes) -> bool:
    """Return whether the bytes are JSON, also inside of a record, which adds up to two levels of nesting."""
    is_shallow = data.count(b"[") + data.count(b"{") <= _MAX_SAFE_BRACKETS
    return is_json(data) and (is_shallow or is_json(b"[[" + data + b"]]"))


def _plain(value: object, depth: int) -> object:
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {_text(str(name)): _plain(member, depth + 1) for name, member in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        return [_plain(member, depth + 1) for member in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    if value is None or isinstance(value, orjson.Fragment):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else _long_number(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping | list | tuple):
        return _nested_text(value)
    return _text(str(value))


def _text(value: str) -> str:
    """Join pairs of surrogates, and replace single ones."""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _long_number(value: int) -> orjson.Fragment | str:
    """Return all digits, or hexadecimal text if floating point of a reader would overflow."""
    return orjson.Fragment(str(value)) if abs(value) < 10**300 else hex(value)


def _nested_text(value: object) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return "(nested too deeply)"
