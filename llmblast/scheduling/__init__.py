"""Scheduling: who goes next, where and when. Everything in this room is synchronous."""

from llmblast.scheduling.adaptive_concurrency import SHORTEST_SERVICE_S, AdaptiveConcurrency
from llmblast.scheduling.breakers import Breaker
from llmblast.scheduling.deadline_book import DeadlineBook
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.flex_capacity import FlexCapacity
from llmblast.scheduling.learned_limits import KnownLimits
from llmblast.scheduling.learned_rate import LearnedRate
from llmblast.scheduling.limit_set import LimitSet, limit_set
from llmblast.scheduling.limits import Concurrency, Limit, Rate, RollingQuota
from llmblast.scheduling.outcomes import ANSWERED, CANCELLED, Finding, Kind, SendOutcome
from llmblast.scheduling.own_models import OwnModel
from llmblast.scheduling.push_back import PushBack
from llmblast.scheduling.request_queue import RequestQueue
from llmblast.scheduling.request_rate import RequestRate
from llmblast.scheduling.routes import ROUTES, Route
from llmblast.scheduling.scheduler import Scheduler
from llmblast.scheduling.shared_prefixes import PrefixesByField, PrefixesByHash, PrefixFinder
from llmblast.scheduling.tokens import TokenEstimator
from llmblast.scheduling.warm_prefixes import WarmPrefixes

__all__ = [
    "ANSWERED",
    "CANCELLED",
    "ROUTES",
    "SHORTEST_SERVICE_S",
    "AdaptiveConcurrency",
    "Breaker",
    "Concurrency",
    "DeadlineBook",
    "Endpoint",
    "EvenRate",
    "Finding",
    "FlexCapacity",
    "Kind",
    "KnownLimits",
    "LearnedRate",
    "Limit",
    "LimitSet",
    "OwnModel",
    "PrefixFinder",
    "PrefixesByField",
    "PrefixesByHash",
    "PushBack",
    "Rate",
    "RequestQueue",
    "RequestRate",
    "RollingQuota",
    "Route",
    "Scheduler",
    "SendOutcome",
    "TokenEstimator",
    "WarmPrefixes",
    "limit_set",
]
