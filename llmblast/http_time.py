"""Moments and waits that a reply names, in seconds from now.

A date is compared with the reply's own `Date` where our clock differs from it: a clock that is a day off, or was set
while a request was under way, must not end a run. Where a reply has no `Date` our clock is all there is.
"""

from collections.abc import Collection
from datetime import UTC
from email.utils import parsedate_to_datetime

from llmblast.models import Reply

MAX_WAIT_S = 400 * 24 * 3600.0
"""Longer waits are taken as this. Quotas of a month or a year exist, and a person has to know of them."""
EPOCH_FROM_S = 1e9
"""Nobody waits 31 years: a number from here on is a Unix time, and from a thousand times as much in milliseconds."""
EPOCH_FROM_MS = 1e12
CLOCKS_AGREE_S = 5.0
"""By so much, our clock is the better one: a `Date` is cut off to whole seconds, and was written some time ago."""


def until_s(moment_s: float, reply: Reply, wall_now_s: float) -> float:
    """Seconds until a moment that `reply` names, in Unix time; 0 for a past one."""
    return bounded_wait_s(moment_s - agreed_time(their_time(reply.headers.items()), wall_now_s))


def bounded_wait_s(seconds: float) -> float:
    """Return the wait, not below 0 and not above the longest that is believed."""
    return min(max(seconds, 0.0), MAX_WAIT_S)


def unix_time_from(number: float) -> float | None:
    """Return the Unix time in seconds that a number stands for; None where it is a duration."""
    if number < EPOCH_FROM_S:
        return None
    return number if number < EPOCH_FROM_MS else number / 1000


def their_time(headers: Collection[tuple[bytes, bytes]]) -> float | None:
    """Unix time by the clock of the server that sent these headers; None where they do not tell."""
    for name, value in headers:
        if len(name) == 4 and name.lower() == b"date":
            return unix_time_of(value)
    return None


def agreed_time(their_now_s: float | None, wall_now_s: float) -> float:
    """Return the time to compare a date in a reply with: our clock's, or the reply's own if they are far apart."""
    if their_now_s is None or abs(their_now_s - wall_now_s) <= CLOCKS_AGREE_S:
        return wall_now_s
    return their_now_s


def unix_time_of(date: bytes) -> float | None:
    """The moment that a date of RFC 9110 section 5.6.7 names; None where it is none."""
    try:
        moment = parsedate_to_datetime(date.decode("latin-1"))
        if moment.tzinfo is None:  # asctime's format names no zone: RFC 9110 has it in UTC
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):
        return None
