"""Rate-limit headers of the mock provider: each style is one function and one line in the table.

openai     x-ratelimit-*, durations: https://platform.openai.com/docs/guides/rate-limits
anthropic  anthropic-ratelimit-*, RFC 3339 dates: https://docs.anthropic.com/en/api/rate-limits
none       says nothing of its limits; `retry-after` is a setting of its own
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple


class Reading(NamedTuple):
    """A limit at one moment. `kind` is requests, tokens, input-tokens or output-tokens."""

    kind: str
    limit: int
    remaining: int
    reset_s: float


class Style(NamedTuple):
    """The kinds of limits that a style has headers for, and what makes those from readings and the epoch's seconds."""

    kinds: tuple[str, ...]
    tell: Callable[[Iterable[Reading], float], dict[str, str]]


def retry_headers(wait_s: float) -> Mapping[str, str]:
    """Return `retry-after` in whole seconds (RFC 9110 section 10.2.3), rounded up so that no client comes too early.

    A wait that whole seconds would lengthen is told by `retry-after-ms`, too, which clients look at first.
    """
    milliseconds = math.ceil(wait_s * 1000)
    whole_s = str(math.ceil(milliseconds / 1000))
    if not milliseconds % 1000:
        return {"retry-after": whole_s}
    return {"retry-after": whole_s, "retry-after-ms": str(milliseconds)}


def go_duration(seconds: float) -> str:
    """Seconds in the form that OpenAI's headers have: `12ms`, `1.2s`, `6m0s`, `1h0m0s`; rounded up to milliseconds."""
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    tail = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return tail
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{tail}" if hours else f"{minutes}m{tail}"


def rfc3339(epoch_s: float) -> str:
    """A moment in the form that Anthropic's headers have, `2025-01-01T00:00:00Z`; rounded up to seconds."""
    return datetime.fromtimestamp(math.ceil(epoch_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _openai(readings: Iterable[Reading], epoch_s: float) -> dict[str, str]:
    headers: dict[str, str] = {}
    for kind, limit, remaining, reset_s in readings:
        headers[f"x-ratelimit-limit-{kind}"] = str(limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(remaining)
        headers[f"x-ratelimit-reset-{kind}"] = go_duration(reset_s)
    return headers


def _anthropic(readings: Iterable[Reading], epoch_s: float) -> dict[str, str]:
    headers: dict[str, str] = {}
    for kind, limit, remaining, reset_s in readings:
        headers[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{kind}-remaining"] = str(remaining)
        headers[f"anthropic-ratelimit-{kind}-reset"] = rfc3339(epoch_s + reset_s)
    return headers


HEADERS: dict[str, Style] = {
    "openai": Style(("requests", "tokens"), _openai),
    "anthropic": Style(("requests", "tokens", "input-tokens", "output-tokens"), _anthropic),
    "none": Style((), _openai),
}
"""The styles by the name that the setting `headers` has for them."""
