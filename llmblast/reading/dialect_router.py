"""Dialect router: find the endpoints that can take a request, by the APIs that their providers speak."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llmblast.reading.fields import BadLine
from llmblast.records import Prompt, Provider


class Route(NamedTuple):
    """Where raw bodies of one dialect go: the path, the kind of provider that has it, and who cannot take them."""

    path: str
    kind: str
    closed_to: int


class DialectRouter:
    """Routes requests to the endpoints that can take them; `providers` are those of all endpoints, in their order."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self.first = providers[0]
        self._providers = providers
        self._by_kind = {provider.kind: provider for provider in providers}
        self._bits_of = {kind: _bits(provider.kind == kind for provider in providers) for kind in self._by_kind}
        self.is_mixed = len(self._by_kind) > 1
        """Endpoints speak several APIs."""
        self.routes: dict[str, Route] = {}
        """By dialect; those that were asked for so far."""

    def speaks(self, dialect: str) -> bool:
        """Return whether any endpoint takes raw bodies of this dialect."""
        return any(dialect in provider.dialects for provider in self._providers)

    def route_of(self, dialect: str) -> Route:
        """Return the route of a raw body. Raises BadLine where no endpoint speaks its dialect."""
        closed_to = _bits(dialect not in provider.dialects for provider in self._providers)
        for provider in self._providers:
            if (path := provider.dialects.get(dialect)) is not None:
                route = self.routes[dialect] = Route(path, provider.kind, closed_to)
                return route
        kinds = " and ".join(self._by_kind)
        raise BadLine(f"no endpoint takes {dialect} requests, all speak {kinds}: add one that does with --url")

    def choose(self, prompt: Prompt) -> tuple[Provider, int]:
        """Return the provider that renders a prompt as it is read, and the bits of the endpoints that cannot take it.

        Raises BadLine where no endpoint can express it.
        """
        chosen, closed_to, reasons = None, 0, []
        for kind, provider in self._by_kind.items():
            if (reason := provider.unsupported_in(prompt)) is not None:
                reasons.append(reason)
                closed_to |= self._bits_of[kind]
            elif chosen is None:
                chosen = provider
        if chosen is None:
            raise BadLine("; ".join(reasons))
        return chosen, closed_to

    def render_first(self, prompt: Prompt) -> None:
        """Try whether a prompt can be sent at all. Raises BadLine, UnsupportedError or JSONEncodeError."""
        provider = self.choose(prompt)[0] if self.is_mixed else self.first
        provider.render(prompt)


def _bits(flags: Iterable[bool]) -> int:
    return sum(flag << index for index, flag in enumerate(flags))
