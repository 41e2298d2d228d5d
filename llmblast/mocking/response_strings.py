"""Strings that fit a schema: their format and their length."""

from collections.abc import Mapping

_FORMATS: Mapping[str, str] = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_FREE = {None, "text", "binary", "password", "path"}
"""Formats that every text has."""
_LONGEST = 100_000


def make_string(schema: Mapping[str, object], text: str) -> str:
    """Return a string that fits; `text` where it may be anything. Raises ValueError with the reason."""
    form = schema.get("format")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", _LONGEST)
    if not isinstance(shortest, int) or not isinstance(longest, int) or not shortest <= longest or shortest > _LONGEST:
        raise ValueError("no string fits 'minLength' and 'maxLength'.")
    if form is None or form in _FREE:
        return (text * (shortest // len(text) + 1) if len(text) < shortest else text)[:longest]
    if not isinstance(form, str) or form not in _FORMATS:
        raise ValueError(f"'{form}' is not a supported format.")
    if not shortest <= len(_FORMATS[form]) <= longest:
        raise ValueError(f"no string of format '{form}' fits 'minLength' and 'maxLength'.")
    return _FORMATS[form]
