"""Deferred ways: by which way each line that can wait goes: by the provider's batch API, in its flex tier, or directly.

`--defer` and `defer` of an endpoint name the way. Without them, and with prices and a time by which the run has to end,
the cheapest way is chosen for each line when it is read; see `ways`. A way counts as there where the host is the
provider's own, or where its price is set.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from llmblast.endpoint_settings import DEFAULT_DISCOUNT, EndpointSettings
from llmblast.errors import UsageError
from llmblast.job.ways import Outlook, Way, cheapest_way
from llmblast.models import RawBody, Request
from llmblast.pipes import is_pipe
from llmblast.provider_contract import Provider, has_flex
from llmblast.settings import Settings
from llmblast.urls import host_of, is_azure
from llmblast.watching import Counters

MAX_BATCHES: Final = 20
"""So many durations of batches are remembered, the last ones."""


class DeferredWays:
    """`lines_per_s` returns the rate at which direct requests can go, None while it is not known. Raises UsageError
    where a flex tier or a batch API is named that no endpoint has.
    """

    def __init__(
        self,
        settings: Settings,
        providers: Sequence[Provider],
        counters: Counters,
        *,
        lines_per_s: Callable[[], float | None],
        wall_clock: Callable[[], float],
    ) -> None:
        check_ways(settings, providers)
        self._providers = providers
        self._prices = [
            prices_of_ways(settings, endpoint, provider)
            for endpoint, provider in zip(settings.endpoints, providers, strict=True)
        ]
        self._counters = counters
        self._lines_per_s = lines_per_s
        self._wall_clock = wall_clock
        self._batches_s: list[float] = []

    @property
    def has_flex(self) -> bool:
        """Return whether some line may ask for a flex tier."""
        return any("flex" in prices for prices in self._prices)

    def flex_for(self, request: Request) -> int:
        """Return the bit set of the endpoints whose flex tier a line that can wait asks for."""
        bits = 0
        for index, (prices, provider) in enumerate(zip(self._prices, self._providers, strict=True)):
            if "flex" not in prices or not _takes_flex(provider, request):
                continue
            # A line that goes directly although a batch were cheaper has come back from one, or could not go there.
            one_by_one: dict[Way, float] = {way: price for way, price in prices.items() if way != "batch"}
            if self._choose(one_by_one, request) == "flex":
                bits |= 1 << index
        return bits

    def goes_by_batch(self, request: Request) -> bool:
        """Return whether a line that can wait goes by batch, where an endpoint takes it."""
        return any(self._choose(prices, request) == "batch" for prices in self._prices)

    def learn(self, batch_s: float) -> None:
        """Learn how long a batch took."""
        self._batches_s = [*self._batches_s[1 - MAX_BATCHES :], batch_s]

    def _choose(self, prices: Mapping[Way, float], request: Request) -> Way:
        if len(prices) == 1:
            return next(iter(prices))
        left_s = request.terms.deadline_s - self._wall_clock()
        return cheapest_way(prices, Outlook(left_s, self._counters.pending + 1, self._lines_per_s(), self._batches_s))


def prices_of_ways(settings: Settings, endpoint: EndpointSettings, provider: Provider) -> dict[Way, float]:
    """Return the ways of an endpoint for lines that can wait, with their prices as shares of the normal one. A way that
    is named is the only one.
    """
    named = endpoint.defer or settings.defer
    if named == "batch" or (named == "flex" and has_flex(provider)):
        return {named: DEFAULT_DISCOUNT}
    if not settings.chooses_ways or endpoint.name == settings.escalate:
        return {"direct": 1.0}
    host = host_of(endpoint.url) or ""
    is_theirs = host in provider.hosts or is_azure(host)
    prices: dict[Way, float] = {"direct": 1.0}
    batch = settings.batch_price if endpoint.batch_price is None else endpoint.batch_price
    if may_choose_batches(settings) and _has_batches(provider) and (is_theirs or batch is not None):
        prices["batch"] = DEFAULT_DISCOUNT if batch is None else batch
    flex = settings.flex_price if endpoint.flex_price is None else endpoint.flex_price
    if has_flex(provider) and (is_theirs or flex is not None):
        prices["flex"] = DEFAULT_DISCOUNT if flex is None else flex
    return {way: price for way, price in prices.items() if way == "direct" or price < 1.0}


def may_choose_batches(settings: Settings) -> bool:
    """Return whether batches may be chosen where no way is named: they need a file of answers, and lines once."""
    return settings.chooses_ways and not is_pipe(settings.save) and settings.repeat == 1


def check_ways(settings: Settings, providers: Sequence[Provider]) -> None:
    """Raise UsageError where `defer` names a flex tier or a batch API that no endpoint has."""
    _check_flex(settings, providers)
    _check_batch(settings, providers)


def _check_flex(settings: Settings, providers: Sequence[Provider]) -> None:
    for endpoint, provider in zip(settings.endpoints, providers, strict=True):
        if endpoint.defer == "flex" and not has_flex(provider):
            raise UsageError(f"endpoint {endpoint.name}: its API ({provider.kind}) has no flex tier: remove defer")
    if settings.defer == "flex" and not any(has_flex(provider) for provider in providers):
        raise UsageError("--defer flex: no endpoint has an API with a flex tier: leave it out")


def _check_batch(settings: Settings, providers: Sequence[Provider]) -> None:
    if not settings.sends_batches:
        return
    for endpoint, provider in zip(settings.endpoints, providers, strict=True):
        if endpoint.defer == "batch" and not _has_batches(provider):
            raise UsageError(f"endpoint {endpoint.name}: its API ({provider.kind}) has no batches: remove defer")
    if settings.defer == "batch" and not any(map(_has_batches, providers)):
        raise UsageError("--defer batch: no endpoint has an API with batches: leave it out")


def _has_batches(provider: Provider) -> bool:
    from llmblast.batching import BATCH_APIS  # noqa: PLC0415 -- most runs choose no way

    return provider.kind in BATCH_APIS


def _takes_flex(provider: Provider, request: Request) -> bool:
    """Return whether a request may ask for the flex tier: its path knows it, and the line names no tier itself."""
    if not has_flex(provider) or provider.flex_member.partition(b":")[0] in request.body:
        return False
    path = request.path
    if isinstance(request.content, RawBody):
        path = provider.dialects.get(request.content.dialect, path)
    elif request.kind != provider.kind:
        return True
    return path.endswith(provider.flex_paths)
