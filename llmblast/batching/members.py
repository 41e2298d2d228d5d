"""Members of JSON objects from an API: each has the expected type or is empty, since servers differ in the details."""

from datetime import UTC, datetime
from typing import Any

from llmblast.http_time import EPOCH_FROM_MS

Json = dict[str, Any]


def object_in(value: Json, name: str) -> Json:
    """Return a member that is an object; an empty one where it is none."""
    member = value.get(name)
    return member if isinstance(member, dict) else {}


def objects_in(value: Json, name: str) -> list[Json]:
    """Return the objects in a member that is a list."""
    member = value.get(name)
    return [item for item in member if isinstance(item, dict)] if isinstance(member, list) else []


def text_in(value: Json, name: str) -> str:
    """Return a member as text; an empty one where there is none."""
    member = value.get(name)
    return str(member) if isinstance(member, str | int) else ""


def count_in(value: Json, name: str) -> int | None:
    """Return a member that is a number; Google writes some of them as text."""
    text = text_in(value, name)
    return int(text) if text.isdecimal() else None


def time_in(value: Json, name: str) -> float | None:
    """Return a moment in Unix time: the API has it in seconds, in milliseconds, or as a date (RFC 3339)."""
    member = value.get(name)
    if isinstance(member, int | float) and not isinstance(member, bool):
        return member / 1000 if member >= EPOCH_FROM_MS else float(member)
    try:
        moment = datetime.fromisoformat(text_in(value, name))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
