"""Allowance: compute from the limits how fast the run may go on, for the displays, a few times a second."""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from llmblast.scheduling import Endpoint, LimitSet, RollingQuota, Scheduler
from llmblast.watching import Allowance, Counters, duration, limit_in_words

MIN_BLOCKED_S = 3.0
"""An endpoint that is blocked for a shorter time counts with its rate."""
MIN_HELD_BACK_S = 10.0
"""Shorter waits for a quota are not shown."""
MAX_NAMED = 3


def allowance_of(
    scheduler: Scheduler, counters: Counters, finished_before: int, now: float, wall_now: Callable[[], float]
) -> Allowance:
    """Return what the limits of the run and of its endpoints allow from `now` on, in monotonic seconds."""
    enabled = scheduler.pool.enabled
    waits = [endpoint.blocked_until_s(now) - now for endpoint in enabled]
    usable = [endpoint for endpoint, wait_s in zip(enabled, waits, strict=True) if wait_s < MIN_BLOCKED_S] or enabled
    run_wait_s = max((quota.ready_at(1.0, now) - now for quota in scheduler.run_limits.quotas), default=0.0)
    scheduler.count_wait(now)
    levels = [scheduler.run_limits, *(endpoint.limits for endpoint in scheduler.endpoints)]
    return Allowance(
        lines_per_s=_lines_per_s(scheduler, usable, counters),
        paced_s=sum(rate.waited_s for level in levels for rate, _ in level.rates_with_kinds),
        blocked_s=max(run_wait_s, min(waits, default=0.0)),
        is_rate_limited=any(endpoint.hold.push_back.is_exhausted for endpoint in enabled),
        quota_wait_s=partial(_quota_wait_s, scheduler, now),
        finished_before=finished_before,
        held_back=_held_back([quota for level in levels for quota in level.quotas], now, wall_now),
    )


def kept_for(seconds: float, make: Callable[[], Allowance], clock: Callable[[], float]) -> Callable[[], Allowance]:
    """Return a function that caches the result of `make` for some seconds."""
    kept: list[tuple[float, Allowance]] = []

    def get() -> Allowance:
        now = clock()
        if not kept or now >= kept[0][0] + seconds:
            kept[:] = [(now, make())]
        return kept[0][1]

    return get


def _lines_per_s(scheduler: Scheduler, usable: Sequence[Endpoint], counters: Counters) -> float | None:
    """Return the minimum of the run's rate and the sum of the usable endpoints' rates; None while unknown."""
    charges = {endpoint.learned.estimator.charge for endpoint in scheduler.endpoints}
    counts_usage = charges == {"usage"}
    rates = [_rate_of(scheduler.run_limits, counters.sent, counters, counts_usage=counts_usage)]
    of_endpoints = [
        _rate_of(e.limits, e.traffic.sends, counters, counts_usage=e.learned.estimator.charge == "usage")
        for e in usable
    ]
    if any(rate is None for rate in (*rates, *of_endpoints)):
        return None
    return min(_known(rates)[0], sum(_known(of_endpoints)))


def _rate_of(limits: LimitSet, sends: int, counters: Counters, *, counts_usage: bool) -> float | None:
    """Return the lines per second that the rates of one level allow; None while the tokens of a line are unknown."""
    allowed = math.inf
    finished = counters.succeeded + counters.failed - counters.malformed
    ended = counters.sent - counters.in_flight
    sends_per_line = max(ended / finished, 1.0) if finished > 0 else 1.0
    for rate, kind in limits.rates_with_kinds:
        if rate.pace_per_s == math.inf:
            continue
        if kind is None:
            cost = sends_per_line
        elif not counters.succeeded:
            return None
        elif counts_usage and counters.tokens:
            tokens = (counters.tokens, counters.prompt_tokens, counters.completion_tokens)[kind]
            cost = tokens / max(finished, 1)
        else:
            cost = rate.used / sends * sends_per_line if sends else 0.0
        if cost > 0:
            allowed = min(allowed, rate.pace_per_s / cost)
    return allowed


def _known(rates: Iterable[float | None]) -> list[float]:
    return [rate for rate in rates if rate is not None]


def _quota_wait_s(scheduler: Scheduler, now: float, sends: float) -> float:
    """Return the seconds until the quotas of the run and of its endpoints allow `sends` more requests."""
    free_at = [quota.free_at(sends, now) for quota in scheduler.run_limits.quotas]
    quotas = [endpoint.limits.quotas for endpoint in scheduler.pool.enabled]
    if quotas and all(quotas):
        units = sum(mine[0].units for mine in quotas)
        free_at += [mine[0].free_at(sends * mine[0].units / units, now) for mine in quotas]
    return max(free_at, default=now) - now


def _held_back(quotas: Sequence[RollingQuota], now: float, wall_now: Callable[[], float]) -> str:
    """Return the text that tells which quotas are used up, and until when."""
    waits = [(quota.name, quota.ready_at(1.0, now) - now) for quota in quotas]
    used_up = [(name, wait_s) for name, wait_s in waits if wait_s >= MIN_HELD_BACK_S]
    parts = []
    for name, wait_s in used_up[:MAX_NAMED]:
        moment = datetime.fromtimestamp(wall_now() + wait_s).astimezone()
        parts.append(f"{limit_in_words(name)} is used up until {moment:%Y-%m-%d %H:%M:%S}, for {duration(wait_s)}")
    more = len(used_up) - len(parts)
    return "; ".join([*parts, f"and {more} more"] if more > 0 else parts)
