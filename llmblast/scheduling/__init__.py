"""Scheduling: who goes next, where and when. Everything in this room is synchronous."""

from llmblast.scheduling.adaptive import LearnedRate, OpeningWindow
from llmblast.scheduling.breakers import Breaker
from llmblast.scheduling.endpoints import SHORTEST_SERVICE_S, Endpoint
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.lanes import Lanes
from llmblast.scheduling.limit_set import LimitSet, limit_set
from llmblast.scheduling.limits import Concurrency, CoolDown, Limit, Rate, RollingQuota
from llmblast.scheduling.request_rate import RequestRate
from llmblast.scheduling.routes import ROUTES, Route
from llmblast.scheduling.scheduler import Scheduler
from llmblast.scheduling.tokens import TokenEstimator

__all__ = [
    "ROUTES",
    "SHORTEST_SERVICE_S",
    "Breaker",
    "Concurrency",
    "CoolDown",
    "Endpoint",
    "EvenRate",
    "Lanes",
    "LearnedRate",
    "Limit",
    "LimitSet",
    "OpeningWindow",
    "Rate",
    "RequestRate",
    "RollingQuota",
    "Route",
    "Scheduler",
    "TokenEstimator",
    "limit_set",
]
