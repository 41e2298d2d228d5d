"""Units: parse numbers as people write them in settings: `200k`, `100/m`, `1h30m`.

| kind | grammar | examples |
|---|---|---|
| count | NUMBER[k, M or G] | 5, 1.5, 1e6, 200k, 2M |
| rate | COUNT[/UNIT], UNIT one of s, m, h, d or a longer name of these | 5, 5/s, 100/m, 1k/hour |
| share | NUMBER% below 100, or NUMBER below 1 | 5%, 0.05 |
| duration | NUMBER seconds, or NUMBER UNIT one after the other, as Go writes them, and days | 90, 1.5, 90s, 5m, 1h30m |

Source of durations: https://pkg.go.dev/time#ParseDuration; days as in Prometheus.
"""

import re
from decimal import Decimal

MAX_CHARACTERS = 100
_NUMBER = r"(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)"
_COUNT = re.compile(rf"([+-]?{_NUMBER}(?:[eE][+-]?\d{{1,3}})?)([kKMG]?)")
_SECONDS = re.compile(rf"[+-]?{_NUMBER}(?:[eE][+-]?\d{{1,3}})?")
_PART = rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h|d)"
_DURATION = re.compile(rf"([+-]?)((?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h|d))+)")
_PARTS = re.compile(_PART)
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_MICROSECOND = Decimal("1e-6")
_UNITS = {
    "ns": Decimal("1e-9"),
    "us": _MICROSECOND,
    "µs": _MICROSECOND,  # the micro sign
    "μs": _MICROSECOND,  # the Greek letter
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
}
_RATE_UNITS = {
    name: seconds
    for names, seconds in (
        (("s", "sec", "second"), 1),
        (("m", "min", "minute"), 60),
        (("h", "hr", "hour"), 3600),
        (("d", "day"), 86_400),
    )
    for name in names
}
DAY_S = 86_400.0


class UnitError(ValueError):
    """A text is not a number of the wanted kind; the message names the kind and shows how to write one."""


def parse_count(text: str) -> float:
    """Parse `200k` as 200,000. Raises UnitError."""
    number = _count(text)
    if number is None:
        raise UnitError("is not a number: write it like 5, 200k or 2M")
    return float(number)


def parse_share(text: str) -> float:
    """Parse `5%` as 0.05. Raises UnitError."""
    share = _percent(text) if text.strip().endswith("%") else _count(text)
    if share is None or not 0 <= share < 1:
        raise UnitError("is not a share: write it like 5%")
    return float(share)


def parse_share_or_count(text: str) -> float:
    """Parse `10%` as 0.1, and `8` as 8. Raises UnitError."""
    is_share = text.strip().endswith("%")
    number = _percent(text) if is_share else _count(text)
    if number is None or number < 0 or (is_share and number >= 1) or (number > 1 and number % 1):
        raise UnitError("is neither a share below 100% nor a whole number: write it like 10% or 8")
    return float(number)


def parse_whole(text: str) -> int:
    """Parse `10k` as 10,000. Raises UnitError."""
    number = _count(text)
    if number is None or number != number.to_integral_value():
        raise UnitError("is not a whole number: write it like 5 or 10k")
    return int(number)


def parse_rate(text: str, unit_s: float) -> float:
    """Parse a rate and return it per `unit_s` seconds, which is also its unit where the text names none.

    `100/m` is 1.6666 with a unit of one second. Raises UnitError.
    """
    amount, slash, unit = text.partition("/")
    number, seconds = _count(amount), _RATE_UNITS.get(unit.strip())
    if number is None or (slash and seconds is None):
        raise UnitError("is not a number: write it like 5, 200k, 5/s, 100/m or 1k/h")
    return float(number) if seconds is None else float(number * Decimal(unit_s) / seconds)


def parse_duration(text: str) -> float:
    """Parse `1h30m` as 5,400 seconds; without a unit, a number is seconds. Raises UnitError."""
    text = text.strip()
    if len(text) <= MAX_CHARACTERS:
        if _SECONDS.fullmatch(text):
            return float(text)
        match = _DURATION.fullmatch(text)
        if match:
            seconds = sum(Decimal(number) * _UNITS[unit] for number, unit in _PARTS.findall(match[2]))
            return float(-seconds if match[1] == "-" else seconds)
    raise UnitError("is not a duration: write seconds, or 90s, 5m or 1h30m")


def _count(text: str) -> Decimal | None:
    text = text.strip()
    match = _COUNT.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    return Decimal(match[1]) * _MULTIPLES[match[2]] if match else None


def _percent(text: str) -> Decimal | None:
    number = _count(text.strip().removesuffix("%"))
    return None if number is None else number / 100
