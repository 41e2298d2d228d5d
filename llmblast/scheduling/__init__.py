"""Scheduling: who goes next, where and when. Everything in this room is synchronous."""

from llmblast.scheduling.adaptive_concurrency import SHORTEST_SERVICE_S, AdaptiveConcurrency
from llmblast.scheduling.breakers import Breaker
from llmblast.scheduling.endpoints import Endpoint, KnownLimits
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.lanes import Lanes
from llmblast.scheduling.learned_rate import LearnedRate
from llmblast.scheduling.limit_set import LimitSet, limit_set
from llmblast.scheduling.limits import Concurrency, Limit, Rate, RollingQuota
from llmblast.scheduling.own_models import OwnModel
from llmblast.scheduling.push_back import PushBack
from llmblast.scheduling.request_rate import RequestRate
from llmblast.scheduling.routes import ROUTES, Route
from llmblast.scheduling.scheduler import Scheduler
from llmblast.scheduling.tokens import TokenEstimator

__all__ = [
    "ROUTES",
    "SHORTEST_SERVICE_S",
    "AdaptiveConcurrency",
    "Breaker",
    "Concurrency",
    "Endpoint",
    "EvenRate",
    "KnownLimits",
    "Lanes",
    "LearnedRate",
    "Limit",
    "LimitSet",
    "OwnModel",
    "PushBack",
    "Rate",
    "RequestRate",
    "RollingQuota",
    "Route",
    "Scheduler",
    "TokenEstimator",
    "limit_set",
]
