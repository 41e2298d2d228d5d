"""Formatting: return numbers, rates and times as text for people."""

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def count(number: int) -> str:
    """Return a number as `1,234,567`."""
    return f"{number:,}"


def short(number: float) -> str:
    """Return a number in at most four characters: `999`, `1.2k`, `45k`, `3.4M`."""
    scaled, suffixes = float(number), iter(("", "k", "M", "G", "T"))
    suffix = next(suffixes)
    while scaled >= 999.5 and (larger := next(suffixes, None)):
        scaled, suffix = scaled / 1000, larger
    digits = 1 if suffix and scaled < 9.95 else 0
    return f"{scaled:.{digits}f}".removesuffix(".0") + suffix


def rate(per_second: float) -> str:
    """Return a rate with about three digits: `0.25`, `12.5`, `12,346`."""
    if per_second >= 999.95:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 9.995 else f"{per_second:.2f}"


def percent(part: float, whole: float) -> str:
    """Return the rounded share of `part`; 0 % and 100 % only if they are exact."""
    if part <= 0 or whole <= 0:
        return "0 %"
    if part >= whole:
        return "100 %"
    share = round(100 * part / whole)
    return "< 1 %" if share == 0 else f"{min(share, 99)} %"


def utilisation(share: float) -> str:
    """Return a share like `percent`, from 90 % on with one decimal: a full limit differs from `99.4 %`."""
    if share < 0.9:
        return percent(share, 1)
    shown = round(100 * share, 1)
    return f"{min(shown, 99.9) if share < 1 else shown:.1f}".removesuffix(".0") + " %"


def latency(seconds: float | None) -> str:
    """Return a latency as `1.5 ms`, `81 ms`, `0.81 s` or `45.6 s`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 0.0995:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"


def duration(seconds: float) -> str:
    """Return a duration as `1.2 s`, `3 min 20 s` or `2 h 05 min`."""
    if round(seconds, 1) < _MINUTE_S:
        return f"{seconds:.1f} s"
    if round(seconds) < _HOUR_S:
        minutes, rest = divmod(round(seconds), _MINUTE_S)
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / _MINUTE_S), _MINUTE_S)
    return f"{hours} h {minutes:02} min"


def clock_time(seconds: float | None) -> str:
    """Return a time as `01:11`, `2:05:10` or `4 d 03 h`; dashes for None."""
    if seconds is None:
        return "--:--"
    whole = round(seconds)
    if whole >= _DAY_S:
        days, rest = divmod(whole, _DAY_S)
        return f"{count(days)} d {rest // _HOUR_S:02} h"
    hours, rest = divmod(whole, _HOUR_S)
    minutes, rest = divmod(rest, _MINUTE_S)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
