"""Run scheduler: the scheduler with all limits of a run, and when too many lines have failed."""

import time
from collections.abc import Callable, Sequence

from llmblast.fence import Fence
from llmblast.scheduling import ROUTES, Endpoint, KnownLimits, PushBack, Scheduler, limit_set
from llmblast.setting_loading import parse_max_errors
from llmblast.settings import Settings
from llmblast.watching import Counters

MIN_FAILED_FOR_SHARE = 20
"""With fewer failed lines, their share means nothing: the first failure would be 100 %."""


def make_scheduler(settings: Settings, known: Sequence[KnownLimits] = (), fence: Fence | None = None) -> Scheduler:
    """Build the scheduler with the limits of the run and of each endpoint; `known` are those of earlier runs."""
    known = known or [KnownLimits()] * len(settings.endpoints)
    run_limits = limit_set("run", settings, settings.burst)
    quotas = {e.quota: PushBack(f"{e.quota} pause") for e in settings.endpoints if e.quota}
    endpoints = [
        Endpoint(
            index,
            endpoint,
            settings.burst,
            quotas[endpoint.quota] if endpoint.quota else None,
            run=settings,
            known=limits,
            fence=fence,
        )
        for index, (endpoint, limits) in enumerate(zip(settings.endpoints, known, strict=True))
    ]
    scheduler = Scheduler(
        run_limits,
        endpoints,
        ROUTES[settings.route],
        shares=settings.share,
        deferred_floor=settings.deferred_floor,
        reserve=settings.reserve,
        wall_clock=time.time,
        fence=fence,
    )
    for endpoint in endpoints:
        if endpoint.name == settings.escalate:
            scheduler.pool.keep_in_reserve(endpoint)
    return scheduler


def gives_up(max_errors: str | None) -> Callable[[Counters], bool]:
    """Return what tells whether more lines have failed than `max_errors` allows: a number, or a share such as `5%`."""
    if max_errors is None:
        return lambda counters: False
    bound, is_share = parse_max_errors(max_errors)
    if is_share:
        return lambda counters: counters.failed >= MIN_FAILED_FOR_SHARE and _failed_percent(counters) > bound
    return lambda counters: counters.failed > bound


def _failed_percent(counters: Counters) -> float:
    return 100 * counters.failed / (counters.failed + counters.succeeded)
