"""Wait hints: find the wait that an error body names, where no header does.

| form | sender | source |
|---|---|---|
| `google.rpc.RetryInfo.retryDelay: "7.5s"` | Google | https://cloud.google.com/apis/design/errors#error_details |
| `metadata.headers["X-RateLimit-Reset"]`, Unix ms | OpenRouter | https://openrouter.ai/docs/api-reference/limits |
| `retry_after`, `retryAfterSeconds`, `retry_after_ms` | gateways, AWS | their error references |
| `estimated_time`, seconds until a model is loaded | Hugging Face | its inference API |
| "try again in 1m26.4s", "in 350ms" | OpenAI, Groq | https://platform.openai.com/docs/guides/rate-limits |
| "retry after 20 seconds" | Azure OpenAI | its 429 |
| "resets at 2026-05-15T15:00:00Z", "regain access on 2026-07-01 at 00:00 UTC" | MiniMax, Anthropic | their errors |

A number of seconds is certain, a moment only as certain as the clocks: see `http_time`. A value that cannot be parsed
counts as absent; nothing here raises.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from llmblast.http_time import bounded_wait_s, unix_time_from, until_s
from llmblast.models import MAX_MESSAGE_CHARS, Reply, ReplyError

_SECONDS_IN_MEMBERS = {
    "retryafter": 1.0,
    "retryafterseconds": 1.0,
    "retryaftersec": 1.0,
    "retrydelay": 1.0,
    "estimatedtime": 1.0,
    "retryafterms": 0.001,
    "retryaftermilliseconds": 0.001,
}
_NOT_IN_NAMES = r"[^a-z]+"

_SECONDS_IN_UNITS = {"ms": 0.001, "millisecond": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0}
_SECONDS_IN_UNITS |= {"minute": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)"
_PART = rf"\d{{1,10}}(?:\.\d{{1,12}})?\s?{_UNIT}"
_PARTS = rf"{_PART}(?:(?:,|,? and)? ?{_PART}){{0,4}}(?![a-z])"
_NAMED_IN_WORDS = (
    r"\b(?:try(?: your request)? again|retry(?: your request)?|wait|resets?|available)"
    rf"(?: (?:again|later|in|after|for|at|least|about|approximately|another)){{0,4}}:? ?~?({_PARTS})"
)
_ONE_PART = r"(\d{1,10}(?:\.\d{1,12})?)\s?([a-z]{1,12})"
_MOMENT = (
    r"\b(?:access|resets?|again|available|until)(?: (?:on|at|after))? "
    r"(\d{4}-\d\d-\d\d)(?:t| at |,? )(\d\d:\d\d(?::\d\d)?)(?:\.\d{1,9})? ?(?:z|utc|gmt|\+00:00)(?![a-z])"
)


def named_wait_s(error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
    """Return the seconds to wait that `error` names, 0 or more; None where it names none.

    The `Date` of `reply` is the clock of moments in the error, `wall_now_s` is Unix time.
    """
    for seconds in _waits_in_members(error, reply, wall_now_s):
        return seconds
    text = error.message[:MAX_MESSAGE_CHARS].lower()
    in_words = re.search(_NAMED_IN_WORDS, text)
    if in_words is not None:
        return _duration_s(in_words[1])
    moment = re.search(_MOMENT, text)
    return None if moment is None else _until_moment_s(moment[1], moment[2], reply, wall_now_s)


def _waits_in_members(error: ReplyError, reply: Reply, wall_now_s: float) -> Iterator[float]:
    for members in error.objects:
        for name, value in members.items():
            factor = _SECONDS_IN_MEMBERS.get(re.sub(_NOT_IN_NAMES, "", name[:40].lower()))
            seconds = None if factor is None else _member_s(value, factor)
            if seconds is not None:
                yield seconds
        headers = members.get("headers")
        if isinstance(headers, Mapping):
            seconds = _until_reset_s(headers, reply, wall_now_s)
            if seconds is not None:
                yield seconds


def _member_s(value: object, factor: float) -> float | None:
    number = _number(value)
    if number is not None:
        return bounded_wait_s(number * factor)
    if isinstance(value, Mapping):  # a protobuf Duration that was not written as text
        return _member_s(value.get("seconds"), factor)
    return _duration_s(value.lower()) if isinstance(value, str) else None


def _until_reset_s(headers: Mapping[str, object], reply: Reply, wall_now_s: float) -> float | None:
    values = {name.lower(): value for name, value in headers.items()}
    named = _number(values.get("retry-after"))
    if named is not None:
        return bounded_wait_s(named)
    reset = _number(values.get("x-ratelimit-reset"))
    if reset is None or _number(values.get("x-ratelimit-remaining")) != 0:
        return None
    moment_s = unix_time_from(reset)
    return bounded_wait_s(reset) if moment_s is None else until_s(moment_s, reply, wall_now_s)


def _duration_s(text: str) -> float | None:
    """Return the seconds in `1m26.4s`, `2 minutes` and the like; None where the text has none."""
    parts = [
        float(number) * factor
        for number, unit in re.findall(_ONE_PART, text[:80])
        if (factor := _SECONDS_IN_UNITS.get(unit) or _SECONDS_IN_UNITS.get(unit.removesuffix("s")))
    ]
    return bounded_wait_s(sum(parts)) if parts else None


def _until_moment_s(day: str, time: str, reply: Reply, wall_now_s: float) -> float | None:
    try:
        moment = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=UTC)
    except ValueError:
        return None
    return until_s(moment.timestamp(), reply, wall_now_s)


def _number(value: object) -> float | None:
    """Return a finite number, which may be written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or len(str(value)) > 40:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
