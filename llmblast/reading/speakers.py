"""Speakers: which endpoints take which requests, by the APIs that their providers speak."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llmblast.reading.fields import BadLine
from llmblast.records import Prompt, Provider


class Route(NamedTuple):
    """Where requests of one dialect go: the path, the kind of provider that it is for, and who cannot take them."""

    path: str
    kind: str
    closed_to: int


class Speakers:
    """The providers of all endpoints, in the order of the endpoints. The first one renders prompts as they are read."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = providers
        self._first = providers[0]
        self.kinds = tuple(dict.fromkeys(provider.kind for provider in providers))
        self._routes: dict[str, Route] = {}
        """By dialect; those of prompts by their path."""

    def speaks(self, dialect: str) -> bool:
        """Return whether any endpoint takes raw bodies of this dialect."""
        return any(dialect in provider.dialects for provider in self._providers)

    def route_of(self, dialect: str) -> Route:
        """Return the route of a raw body. Raises BadLine where no endpoint speaks its dialect."""
        route = self._routes.get(dialect)
        if route is None:
            route = self._routes[dialect] = self._find_route(dialect)
        return route

    def render(self, prompt: Prompt) -> tuple[bytes, Route, Prompt | None]:
        """Return a body with its route, and the prompt where endpoints of another kind have to render it later.

        Raises BadLine where no endpoint can express the prompt.
        """
        if len(self.kinds) > 1:
            return self._render_for_many(prompt)
        if (reason := self._first.unsupported_in(prompt)) is not None:
            raise BadLine(reason)
        path, body = self._first.render(prompt)
        route = self._routes.get(path)
        if route is None:
            route = self._routes[path] = Route(path, self._first.kind, 0)
        return body, route, None

    def _find_route(self, dialect: str) -> Route:
        closed_to = _bits(dialect not in provider.dialects for provider in self._providers)
        for provider in self._providers:
            if (path := provider.dialects.get(dialect)) is not None:
                return Route(path, provider.kind, closed_to)
        what = ", ".join(self.kinds)
        raise BadLine(f"no endpoint takes {dialect} requests, their kind is {what}: add one with --url URL,kind=...")

    def _render_for_many(self, prompt: Prompt) -> tuple[bytes, Route, Prompt | None]:
        reasons = [provider.unsupported_in(prompt) for provider in self._providers]
        for provider, reason in zip(self._providers, reasons, strict=True):
            if reason is None:
                path, body = provider.render(prompt)
                return body, Route(path, provider.kind, _bits(reason is not None for reason in reasons)), prompt
        raise BadLine("; ".join(dict.fromkeys(reason for reason in reasons if reason)))


def _bits(flags: Iterable[bool]) -> int:
    return sum(flag << index for index, flag in enumerate(flags))
