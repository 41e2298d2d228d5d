"""Diagnosis: guess why a line is not JSON, and name the fix. A wrong kind of file is more common than a broken line."""

import re

import orjson

_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_UTF16_SAMPLE_BYTES = 16
_SEPARATORS = (b",", b";", b"\t")
_INSIDE_OF_AN_OBJECT = re.compile(rb'[}\]]|"[^"]*"\s*:')
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u2060\u3000\ufeff]+(?=[{\[])")
_STARTS_OF_A_LIST = (b"[", b"[{")
_MEANINGS = {
    "no low surrogate in string": "a broken escape: half of a pair such as \\ud83d\\ude00",
    "invalid high surrogate in string": "a broken escape: half of a pair such as \\ud83d\\ude00",
    "unexpected content after document": "more than one object on the line: write one object a line",
    "depth limit exceeded": "nested too deep: flatten it",
}
"""Clearer texts for messages of orjson."""
_NO_NUMBERS = ("NaN", "Infinity")
_AS_TEXT = "--format text"
_HOWTO = 'write one JSON object a line, such as {"input": "..."}'


def diagnose(text: bytes, error: orjson.JSONDecodeError) -> tuple[str, int]:
    """Return why orjson rejected a stripped line with `error`, and the column of the error in characters from 1."""
    if guess := _wrong_file(text):
        return guess, 1
    if damage := _damage(text):
        return damage
    if guess := _wrong_format(text):
        return guess, 1
    return f"not JSON: {_mistake(text, error)}", error.pos + 1


def _wrong_file(text: bytes) -> str | None:
    """Return the error for a file of another type, if the first bytes of a line show the type."""
    if _looks_like_utf16(text):
        return "not JSON: it looks like UTF-16: save the file as UTF-8"
    if text.startswith(b"<"):
        return f"not JSON: the line starts with '<' like HTML or XML: {_HOWTO}"
    return None


def _looks_like_utf16(text: bytes) -> bool:
    """Compare zero bytes at even and odd positions: the ASCII at the start of JSON has them at one or the other."""
    sample = text[:_UTF16_SAMPLE_BYTES]
    surplus = sample[::2].count(0) - sample[1::2].count(0)
    return text.startswith(_UTF16_BOMS) or abs(surplus) * 4 > len(sample)


def _damage(text: bytes) -> tuple[str, int] | None:
    """Return the error and its column for a line that is not UTF-8 text."""
    zero_at = text.find(b"\0")
    if zero_at >= 0:
        return "not JSON: a zero byte: the file is damaged or not text", _column(text, zero_at)
    try:
        text.decode()
    except UnicodeDecodeError as invalid:
        return "not JSON: invalid UTF-8: save the file as UTF-8", _column(text, invalid.start)
    return None


def _wrong_format(text: bytes) -> str | None:
    """Return the error for a text that does not start like an object, or consists of the start of a list."""
    if text in _STARTS_OF_A_LIST:
        return "a JSON array instead of one object a line: split it: jq -c '.[]' FILE"
    if text.startswith((b"{", b"[")):
        return None
    if mark := _INVISIBLE.match(text.decode()):
        return f"not JSON: an invisible character (U+{ord(mark[0][0]):04X}) in front of the object: remove it"
    if _INSIDE_OF_AN_OBJECT.match(text):
        return "not JSON: one object is spread over several lines: join them: jq -c . FILE"
    if any(separator in text for separator in _SEPARATORS):
        forms = f"For a CSV file: --format csv; for a prompt on each line: {_AS_TEXT}"
        return f"not JSON: it looks like CSV: {_HOWTO}. {forms}"
    return f"not JSON: it looks like plain text: {_HOWTO}. To send each line as a prompt: {_AS_TEXT}"


def _mistake(text: bytes, error: orjson.JSONDecodeError) -> str:
    if error.msg == "unexpected end of data":
        return "it ends too early: complete the line; if one object is spread over several lines: jq -c . FILE"
    if b"\r" in text and error.msg.startswith("unexpected content after"):
        return "lines end with CR alone: end them with LF: tr '\\r' '\\n' < FILE"
    if error.msg.startswith("unexpected content after") and text[error.pos :].strip() == b",":
        return "a comma behind the object, as in a JSON array: split it: jq -c '.[]' FILE"
    if text.decode().startswith(_NO_NUMBERS, error.pos):
        return "NaN and Infinity are not JSON: write null or remove them"
    return _MEANINGS.get(error.msg.split(",")[0], error.msg)


def _column(text: bytes, at: int) -> int:
    return len(text[:at].decode(errors="replace")) + 1
