"""Google's errors: which name they have, and how long to wait for a quota.

A quota by the day names a wait of seconds (`RetryInfo`) all the same, after which it is as used up as before: it is
full again at midnight in California. Sources: https://ai.google.dev/gemini-api/docs/rate-limits,
https://cloud.google.com/apis/design/errors#error_details (QuotaFailure, RetryInfo).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmblast.models import Reply, ReplyError
from llmblast.providers import reply_errors
from llmblast.providers.wait_hints import named_wait_s

_BY_DAY = ("perday", "per_day", "daily")
_STANDARD_TIME = timezone(timedelta(hours=-8))


def read_google_error(reply: Reply) -> ReplyError:
    """Return the error in the body of a reply that is not 2xx, with a name as its code instead of the status."""
    error = reply_errors.read_error(reply)
    names = (members.get(key) for key in ("reason", "status") for members in error.objects)
    name = next((name for name in names if isinstance(name, str) and name), None)
    if name is not None and error.code.isdecimal():
        error.code = name
    return error


def google_wait_s(error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
    """Return the seconds to wait that an error names, or until its quota by the day is full again."""
    wait_s = named_wait_s(error, reply, wall_now_s)
    if any(name in quota.lower() for quota in _quotas(error) for name in _BY_DAY):
        return max(wait_s or 0.0, _until_midnight_s(wall_now_s))
    return wait_s


def _quotas(error: ReplyError) -> Iterator[str]:
    """Yield the names of the quotas that are used up."""
    for members in error.objects:
        violations = members.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            quota = violation.get("quotaId") or violation.get("subject") if isinstance(violation, dict) else None
            if isinstance(quota, str):
                yield quota


def _until_midnight_s(wall_now_s: float) -> float:
    zone: tzinfo = _STANDARD_TIME
    try:
        zone = ZoneInfo("America/Los_Angeles")
    except (ZoneInfoNotFoundError, OSError):  # no data of time zones on this machine: an hour too late in summer
        zone = _STANDARD_TIME
    now = datetime.fromtimestamp(wall_now_s, zone)
    midnight = datetime(now.year, now.month, now.day, tzinfo=zone) + timedelta(days=1)
    return max(0.0, (midnight.astimezone(UTC) - now.astimezone(UTC)).total_seconds())
