"""Scheduling: who goes next, where and when. Everything in this room is synchronous."""

from llmblast.scheduling.endpoints import Endpoint, limit_set
from llmblast.scheduling.lanes import Lanes
from llmblast.scheduling.limits import Breaker, Concurrency, CoolDown, Limit, LimitSet, Rate
from llmblast.scheduling.routes import ROUTES, Route
from llmblast.scheduling.scheduler import Scheduler
from llmblast.scheduling.tokens import TokenEstimator

__all__ = [
    "ROUTES",
    "Breaker",
    "Concurrency",
    "CoolDown",
    "Endpoint",
    "Lanes",
    "Limit",
    "LimitSet",
    "Rate",
    "Route",
    "Scheduler",
    "TokenEstimator",
    "limit_set",
]
