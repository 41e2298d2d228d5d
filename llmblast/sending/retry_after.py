"""When a provider says that it takes requests again: `Retry-After` in all its forms.

RFC 9110 section 10.2.3 has whole seconds or an HTTP date; providers also send fractions, and `retry-after-ms`
(Azure OpenAI, OpenAI). Anything that cannot be read counts as not said: the parser never raises.
"""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from math import isfinite

LONGEST_S = 24 * 3600.0
"""Longer waits are taken as this: a wrong clock at the provider must not park a run for years."""


def retry_after_s(headers: Sequence[tuple[bytes, bytes]], wall_now_s: float) -> float | None:
    """Seconds to wait from now, 0 or more; None where the provider named none. `wall_now_s` is Unix time."""
    found: float | None = None
    for name, value in headers:
        if name == b"retry-after-ms" and (milliseconds := _number(value)) is not None:
            return _bounded(milliseconds / 1000)
        if name == b"retry-after" and found is None:
            seconds = _number(value)
            found = seconds if seconds is not None else _until_date(value, wall_now_s)
    return None if found is None else _bounded(found)


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _until_date(value: bytes, wall_now_s: float) -> float | None:
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() - wall_now_s
    except (ValueError, OverflowError, OSError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_S)
