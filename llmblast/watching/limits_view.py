"""Limits view: the values of the limits that displays and the summary read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmblast.watching.time_left import Allowance


@dataclass(frozen=True, slots=True)
class LimitsView:
    """Limits as displays see them.

    `waited` returns the seconds for which each limit held the head of the queue back, by the limit's name, such as
    `run rps` or `gpu1 tpm`.
    """

    tokens_per_minute_limit: float | None = None
    requests_per_second_limit: float | None = None
    waited: Callable[[], Mapping[str, float]] = dict
    used: Callable[[], Mapping[str, float]] = dict
    """Share of each rate limit that was used between the first and the last send, by the limit's name."""
    allowance: Callable[[], Allowance] = Allowance
    """Return the allowance from now on."""
