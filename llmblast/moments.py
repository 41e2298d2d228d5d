"""Moments: parse when something has to be done, as people write it, into seconds of the wall clock.

| form | means |
|---|---|
| NUMBER, or a duration such as 90s, 2h, 1h30m | so long after `now_s` |
| NUMBER from 1,000,000,000 on | Unix seconds |
| 08:00 or 08:00:30 | the next such time of the local clock |
| 2026-12-01T08:00, 2026-12-01 08:00:00Z, ...+01:00 | ISO 8601 with date and time; without a zone, local time |
"""

import re
from datetime import datetime, time, timedelta
from typing import Final

from llmblast.units import UnitError, parse_duration

MIN_UNIX_S: Final = 1e9
"""Smaller numbers are durations: settings allow none that is longer."""
MAX_UNIX_S: Final = 1e11
"""Larger numbers are no seconds, but milliseconds, say."""
HOW_TO: Final = "write seconds, a duration such as 2h, or a time such as 08:00 or 2026-12-01T08:00+01:00"
_MAX_CHARACTERS: Final = 40
_TIME_OF_DAY: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DATE_AND_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:?\d{2}.*")


def parse_moment(text: str, now_s: float) -> float:
    """Return the moment that a text means at `now_s`, both in Unix seconds. Raises UnitError."""
    text = text.strip()
    if len(text) > _MAX_CHARACTERS:
        raise UnitError(f"is not a time: {HOW_TO}")
    try:
        if (match := _TIME_OF_DAY.fullmatch(text)) is not None:
            return _next_time(time(int(match[1]), int(match[2]), int(match[3] or 0)), now_s)
        if _DATE_AND_TIME.fullmatch(text):
            return datetime.fromisoformat(text).timestamp()
        return moment_after(parse_duration(text), now_s)
    except (ValueError, OverflowError):
        raise UnitError(f"is not a time: {HOW_TO}") from None


def moment_after(seconds: float, now_s: float) -> float:
    """Return the moment that a number means: seconds after `now_s`, or Unix seconds. Raises UnitError."""
    if not 0 <= seconds < MAX_UNIX_S:
        raise UnitError(f"is not a time: {HOW_TO}")
    return float(seconds) if seconds >= MIN_UNIX_S else now_s + seconds


def _next_time(wanted: time, now_s: float) -> float:
    """Return the next moment at which the local clock shows this time."""
    now = datetime.fromtimestamp(now_s)
    at = datetime.combine(now.date(), wanted)
    if at.timestamp() <= now_s:
        at += timedelta(days=1)
    return at.timestamp()
