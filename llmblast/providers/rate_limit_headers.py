"""Parser of rate-limit headers, in all the forms that providers send.

| headers | who | source |
|---|---|---|
| x-ratelimit-{limit,remaining,reset}-KIND | OpenAI, Azure | https://platform.openai.com/docs/guides/rate-limits |
| the same | Groq | https://console.groq.com/docs/rate-limits |
| x-ratelimit-SCOPE-{limit,remaining}-KIND | LiteLLM's proxy | proxy/hooks/parallel_request_limiter_v3.py in it |
| anthropic-ratelimit-KIND-{limit,remaining,reset} | Anthropic | https://docs.anthropic.com/en/api/rate-limits |
| x-ratelimit-{limit,remaining,reset}: requests | OpenRouter | https://openrouter.ai/docs/api-reference/limits |
| ratelimit-{limit,remaining,reset}: requests | gateways | IETF draft-ietf-httpapi-ratelimit-headers, up to 07 |

KIND is requests, tokens, input-tokens or output-tokens. SCOPE says whose limit it is, such as api_key or team.
A reset is a duration (`6m0s`), seconds from now, the Unix time in seconds or milliseconds, a date of RFC 3339 or one of
RFC 9110 section 5.6.7. A part that cannot be parsed counts as absent: the parser never raises.
"""

import re
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from functools import cache, partial
from math import inf

from llmblast.http_time import agreed_time, their_time, unix_time_from, unix_time_of
from llmblast.models import RateLimitInfo

MAX_RESET_S = 24 * 3600.0
"""Later resets are taken as this: a wrong clock at the provider must not slow a run down for years."""

_PARTS = ("limit", "remaining", "reset")
_RESET = _PARTS.index("reset")
_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_SCOPES = ("api_key", "model_per_key", "user", "end_user", "team", "team_member", "model_per_team", "organization")


def _meanings() -> Iterator[tuple[bytes, tuple[tuple[str, str], int]]]:
    """Yield each header name with its sender, its kind of limit and the index of its part."""
    for index, part in enumerate(_PARTS):
        yield f"x-ratelimit-{part}".encode(), (("a gateway", "requests"), index)
        yield f"ratelimit-{part}".encode(), (("the draft", "requests"), index)
        for kind in _KINDS:
            its_name = kind.replace("-", "_")
            yield f"x-ratelimit-{part}-{kind}".encode(), (("OpenAI", its_name), index)
            yield f"anthropic-ratelimit-{kind}-{part}".encode(), (("Anthropic", its_name), index)
            for scope in _SCOPES:
                yield f"x-ratelimit-{scope}-{part}-{kind}".encode(), ((f"LiteLLM, {scope}", its_name), index)


_MEANINGS = dict(_meanings())
_SHORTEST_NAME = min(map(len, _MEANINGS))

# A comma before three digits separates thousands: lists are written with a space behind theirs, `100, 100;w=60`.
_AMOUNT = rb"\s*((?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?)\s*(?:;|,(?!\d)|\Z)"
_WHOLE_SECONDS = rb"\s*(?:\d{1,10}|[^.]*:[^.]*)\s*"
"""Match values without a unit and without a fraction: seconds, a Unix time, a date."""
EXACT_S = 0.001
WHOLE_S = 1.0

_NUMBER = rb"(\d++(?:\.\d++)?)"
_DURATION = rb"(?=\d)(?:%bd)?(?:%bh)?(?:%bm)?(?:%bs)?(?:%bms)?" % ((_NUMBER,) * 5)

_pattern = cache(re.compile)
"""Compiles a pattern when the first reply with limits comes; `re.match` would look it up for 0.3 us each time."""


def read_rate_limits(headers: Collection[tuple[bytes, bytes]], wall_now_s: float) -> list[RateLimitInfo]:
    """Return one `RateLimitInfo` for each limit that the headers of a reply report; never raise.

    Limits and remainders are 0 or more, resets 0 to 24 h from `wall_now_s`, which is Unix time, or from the reply's own
    `Date` where that is far from it. Of a header that comes twice, the first parsable one counts. Where a gateway and
    the provider behind it both report requests in headers of their own, each has its own info: numbers of different
    limits are never mixed.
    """
    parts: dict[tuple[str, str], list[float | None]] = {}
    resolution_s = EXACT_S
    now_of = partial(_now_s, headers, wall_now_s)
    for name, value in headers:
        if len(name) < _SHORTEST_NAME:  # nearly all headers of a reply without limits end here, for 20 ns each
            continue
        meaning = _MEANINGS.get(name.lower())
        if meaning is None:
            continue
        limit, part = meaning
        number = _until_reset_s(value, now_of) if part == _RESET else _amount(value)
        if number is None:
            continue
        numbers = parts.get(limit)
        if numbers is None:
            numbers = parts[limit] = [None, None, None]
        if numbers[part] is None:
            numbers[part] = number
        if part == _RESET and _pattern(_WHOLE_SECONDS).fullmatch(value):
            resolution_s = WHOLE_S
    return [
        RateLimitInfo(kind, amount, remaining, reset_s, resolution_s)
        for (_, kind), (amount, remaining, reset_s) in parts.items()
    ]


def _amount(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        match = re.match(_AMOUNT, value)
        if match is None:
            return None
        number = float(match[1].replace(b",", b""))
    return number if 0 <= number < inf else None


def _now_s(headers: Collection[tuple[bytes, bytes]], wall_now_s: float) -> float:
    return agreed_time(their_time(headers), wall_now_s)


def _until_reset_s(value: bytes, now_of: Callable[[], float]) -> float | None:
    value = value.strip()
    if b":" in value:  # dates have one, nothing else does
        seconds = _until_date_s(value, now_of)
    else:
        seconds = _duration_s(value)
        if seconds is None:
            seconds = _until_number_s(value, now_of)
    return min(max(seconds, 0.0), MAX_RESET_S) if seconds is not None and seconds < inf else None


def _duration_s(value: bytes) -> float | None:
    match = _pattern(_DURATION).fullmatch(value)
    if match is None:
        return None
    days, hours, minutes, seconds, milliseconds = map(float, match.groups(b"0"))
    return days * 86400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _until_number_s(value: bytes, now_of: Callable[[], float]) -> float | None:
    number = _amount(value)
    moment_s = None if number is None else unix_time_from(number)
    return number if moment_s is None else moment_s - now_of()


def _until_date_s(value: bytes, now_of: Callable[[], float]) -> float | None:
    moment_s = _rfc_3339_s(value) if value[:4].isdigit() else unix_time_of(value)
    return None if moment_s is None else moment_s - now_of()


def _rfc_3339_s(value: bytes) -> float | None:
    try:
        date = datetime.fromisoformat(value.decode("latin-1").upper())  # section 5.6 allows a small t and z
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return date.timestamp()
    except (ValueError, OverflowError):
        return None
