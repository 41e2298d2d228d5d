"""When a provider says that it takes requests again: `Retry-After` in all its forms.

RFC 9110 section 10.2.3 has whole seconds or an HTTP date; providers also send fractions, and `retry-after-ms`
(Azure OpenAI, OpenAI). Anything that cannot be read counts as not said: the parser never raises.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite

from llmblast.records import Reply

LONGEST_S = 24 * 3600.0
"""Longer waits are taken as this: a wrong clock at the provider must not park a run for years."""


def retry_after_s(reply: Reply, wall_now_s: float) -> float | None:
    """Seconds to wait from now, 0 or more; None where the provider named none. `wall_now_s` is Unix time."""
    value = reply.header(b"retry-after-ms")
    if value is not None and (milliseconds := _number(value)) is not None:
        return _bounded(milliseconds / 1000)
    value = reply.header(b"retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is None:
        seconds = _until_date(value, wall_now_s)
    return None if seconds is None else _bounded(seconds)


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _until_date(value: bytes, wall_now_s: float) -> float | None:
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
        if date.tzinfo is None:  # asctime's format names no zone: RFC 9110 section 5.6.7 has it in UTC
            date = date.replace(tzinfo=UTC)
        return date.timestamp() - wall_now_s
    except (ValueError, OverflowError, OSError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_S)
