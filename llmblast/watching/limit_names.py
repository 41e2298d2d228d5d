"""Limit names: return the names of limits, and the reasons for waits, as text for people."""

from collections.abc import Mapping

from llmblast.watching.formatting import duration, percent
from llmblast.watching.sanitize import sanitize_text

_RUN = "run "
_MAX_NAME_LENGTH = 60
_OUTPUT = "output"
_EVENTS = {
    " breaker": "was down",
    " outage": "was failing",
    " refusals": "was rejecting lines",
    " pause": "paused after 429s",
    " learned rate": "slowed after 429s",
    " learned concurrency": "was limited to fewer in flight after 429s",
}
"""Reasons for waits that are no limits from the settings: trouble of an endpoint or a quota."""


def limit_in_words(name: str) -> str:
    """Return `--rps` for a limit of the run, `gpu1 rps` for a limit of an endpoint."""
    name = sanitize_text(name, _MAX_NAME_LENGTH)
    return f"--{name.removeprefix(_RUN)}" if name.startswith(_RUN) else name


def waits_in_words(waited: Mapping[str, float], whole_s: float, least_s: float) -> list[str]:
    """Return the reasons for waits of more than `least_s`, each with its seconds and share: limits first, then events,
    both in descending order.
    """
    longest_first = sorted(waited.items(), key=lambda item: -item[1])
    told = [
        (name, f"{duration(wait_s)} ({percent(wait_s, whole_s)})") for name, wait_s in longest_first if wait_s > least_s
    ]
    limits = [f"{_limit(name)} {how_long}" for name, how_long in told if _event(name) is None]
    events = [f"{event} {how_long}" for name, how_long in told if (event := _event(name)) is not None]
    return ([f"held back by {limits[0]}", *limits[1:]] if limits else []) + events


def _limit(name: str) -> str:
    return "the output files" if name == _OUTPUT else limit_in_words(name)


def _event(name: str) -> str | None:
    suffix = next((suffix for suffix in _EVENTS if name.endswith(suffix)), None)
    return None if suffix is None else f"{sanitize_text(name.removesuffix(suffix), _MAX_NAME_LENGTH)} {_EVENTS[suffix]}"
