"""Costs: what the tokens of a run cost at the prices in its settings, and what cheaper ways have saved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from llmblast.endpoint_settings import DEFAULT_DISCOUNT, EndpointSettings, RateSettings

BATCH: Final = "batch"
FLEX: Final = "flex"
_PER: Final = 1e6
"""Prices are those of so many tokens."""


@dataclass(slots=True)
class TokenCounts:
    """Tokens of answers; those from the provider's cache are among those of the prompts. `write_surcharge` is what
    adding others to that cache costs beyond the price of the prompts, in prompt tokens.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    write_surcharge: float = 0.0

    def add(self, prompt: int, cached: int, completion: int, write_surcharge: float = 0.0) -> None:
        """Count the tokens of one answer."""
        self.prompt += prompt
        self.cached += min(cached, prompt)
        self.completion += completion
        self.write_surcharge += write_surcharge


@dataclass(slots=True)
class Used:
    """Tokens of one endpoint: all of them, and those that did not go the normal way, by that way."""

    all: TokenCounts = field(default_factory=TokenCounts)
    by_way: dict[str, TokenCounts] = field(default_factory=dict)

    def add_by_way(self, way: str, prompt: int, cached: int, completion: int, write_surcharge: float = 0.0) -> None:
        """Count the tokens of an answer that came by another way than the normal one; they are in `all`, too."""
        self.by_way.setdefault(way, TokenCounts()).add(prompt, cached, completion, write_surcharge)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens at one endpoint; `shares` are those of other ways, of the normal price."""

    prompt: float
    cached: float
    completion: float
    shares: Mapping[str, float]

    def of(self, counts: TokenCounts) -> float:
        """Return what tokens cost in the normal way."""
        fresh = (counts.prompt - counts.cached + counts.write_surcharge) * self.prompt
        return (fresh + counts.cached * self.cached + counts.completion * self.completion) / _PER

    def cost_of(self, used: Used) -> "Cost":
        """Return what the tokens of an endpoint cost."""
        by_way = {way: self.of(counts) for way, counts in used.by_way.items()}
        saved_by_way = {way: cost * (1 - self.shares.get(way, 1.0)) for way, cost in by_way.items()}
        by_cache = {way: self._saved_by_cache(counts) for way, counts in used.by_way.items()}
        less_by_cache = sum(saved * (1 - self.shares.get(way, 1.0)) for way, saved in by_cache.items())
        return Cost(
            self.of(used.all) - sum(saved_by_way.values()),
            saved_by_way,
            self._saved_by_cache(used.all) - less_by_cache,
        )

    def _saved_by_cache(self, counts: TokenCounts) -> float:
        return (counts.cached * (self.prompt - self.cached) - counts.write_surcharge * self.prompt) / _PER


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of tokens, and how much batches, the flex tier and the provider's cache have saved. A cache may cost
    more than it saves.
    """

    total: float
    saved_by_way: Mapping[str, float]
    saved_by_cache: float

    @property
    def saved(self) -> float:
        """Return all savings together."""
        return sum(self.saved_by_way.values()) + self.saved_by_cache


def prices_of(endpoint: EndpointSettings, run: RateSettings) -> Prices | None:
    """Return the prices of an endpoint, by its settings or the run's; None where none is set. A price that is not set
    beside another one is 0; that of cached tokens is the one of the others then.
    """
    price_in, price_out, price_cached, batch, flex = (
        own if own is not None else of_run
        for own, of_run in (
            (endpoint.price_in, run.price_in),
            (endpoint.price_out, run.price_out),
            (endpoint.price_cached, run.price_cached),
            (endpoint.batch_price, run.batch_price),
            (endpoint.flex_price, run.flex_price),
        )
    )
    if price_in is None and price_out is None:
        return None
    shares = {way: DEFAULT_DISCOUNT if share is None else share for way, share in ((BATCH, batch), (FLEX, flex))}
    prompt = price_in or 0.0
    return Prices(prompt, prompt if price_cached is None else price_cached, price_out or 0.0, shares)


def sum_of(costs: Iterable[Cost]) -> Cost | None:
    """Return the costs together; None where there are none."""
    total = saved_by_cache = 0.0
    saved_by_way: dict[str, float] = {}
    has_any = False
    for cost in costs:
        has_any = True
        total += cost.total
        saved_by_cache += cost.saved_by_cache
        for way, saved in cost.saved_by_way.items():
            saved_by_way[way] = saved_by_way.get(way, 0.0) + saved
    return Cost(total, saved_by_way, saved_by_cache) if has_any else None


def money(amount: float) -> str:
    """Return an amount with two digits or more: `$1,234`, `$1.23`, `$0.0042`."""
    if abs(amount) >= 999.995:
        return f"${amount:,.0f}"
    if abs(amount) >= 0.0995 or amount == 0:
        return f"${amount:.2f}" if amount else "$0"
    return f"${amount:.2g}" if abs(amount) >= 1e-4 else f"${amount:.6f}".rstrip("0").rstrip(".")
