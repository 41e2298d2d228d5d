"""Dialect router: find the endpoints that can take a request, by the APIs that their providers speak."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from llmblast.models import Prompt, RawBody, Request
from llmblast.provider_contract import PathProvider, Provider, SchemaMember, names_model_in_path
from llmblast.reading.fields import BadLine, max_tokens_of, model_of, needs_model
from llmblast.reading.members import take_out

_MODEL: Final = ("model",)

SchemaMembers = Mapping[str, SchemaMember]
"""By dialect."""


class Route(NamedTuple):
    """Path of the raw bodies of one dialect, kind of provider that has the path, and endpoints that cannot take them.

    `content` is for endpoints of other kinds; None where all endpoints have one kind. `addressing` is the provider
    where its paths name the model. Endpoints whose bodies name it then cannot take a line that does, and the other way
    round: `closed_to_named` are those that such a line cannot go to.
    """

    path: str
    kind: str
    closed_to: int
    content: RawBody | None
    addressing: PathProvider | None
    closed_to_named: int


class DialectRouter:
    """Route requests to the endpoints that can take them; `providers` are those of all endpoints, in their order.

    `schema_members` are what raw bodies need to ask for answers that fit a schema.
    """

    def __init__(self, providers: Sequence[Provider], schema_members: SchemaMembers | None = None) -> None:
        self.first = providers[0]
        self._providers = providers
        self._by_kind = {provider.kind: provider for provider in providers}
        self._bits_of = {kind: _bits(provider.kind == kind for provider in providers) for kind in self._by_kind}
        self.is_mixed = len(self._by_kind) > 1
        """Endpoints speak several APIs."""
        self._routes: dict[str, Route] = {}
        self._schema_members = schema_members or {}

    def speaks(self, dialect: str) -> bool:
        """Return whether any endpoint takes raw bodies of this dialect."""
        return any(dialect in provider.dialects for provider in self._providers)

    def raw_request(
        self,
        number: int,
        key: str,
        text: bytes,
        *,
        line_id: str | int,
        extra: Mapping[str, object],
        dialect: str,
        body: bytes,
        members: Mapping[str, object],
        output_format: str = "llmblast",
    ) -> Request:
        """Return the request that sends `body`, unchanged unless there is a schema; `members` are its parsed members.

        Raises BadLine where no endpoint speaks the dialect, or a member asks for a feature that llmblast lacks.
        """
        route = self._routes.get(dialect) or self._find_route(dialect)
        path, closed_to, model, echo = route.path, route.closed_to, model_of(members), body
        if model is not None:
            closed_to = route.closed_to_named
            if route.addressing is not None:
                path, body = route.addressing.path_for(path, model), take_out(body, _MODEL)[0]
        sent = body
        if self._schema_members and (member := self._schema_members.get(dialect)) is not None:
            sent = _with_schema(member, body, members)
        return Request(
            number,
            key,
            text,
            line_id,
            orjson.Fragment(echo),
            extra or None,
            path=path,
            body=sent,
            kind=route.kind,
            content=route.content,
            closed_to=closed_to,
            needs_model=needs_model(members) or (model is not None and route.addressing is not None),
            model=model,
            max_tokens=max_tokens_of(members),
            output_format=output_format,
        )

    def choose(self, prompt: Prompt) -> tuple[Provider, int]:
        """Return the provider that renders a prompt at parsing, and the bits of the endpoints that cannot take it.

        Raises BadLine where no endpoint can express the prompt.
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
        """Render a prompt as a test. Raises BadLine, UnsupportedError or JSONEncodeError if it cannot be sent."""
        provider = self.choose(prompt)[0] if self.is_mixed else self.first
        provider.render(prompt)

    def _find_route(self, dialect: str) -> Route:
        closed_to = _bits(dialect not in provider.dialects for provider in self._providers)
        for provider in self._providers:
            if (path := provider.dialects.get(dialect)) is not None:
                content = RawBody(dialect) if self.is_mixed else None
                addressing = provider if names_model_in_path(provider) else None
                is_other = (names_model_in_path(p) != names_model_in_path(provider) for p in self._providers)
                named = closed_to | _bits(is_other)
                route = Route(path, provider.kind, closed_to, content, addressing, named)
                self._routes[dialect] = route
                return route
        kinds = " and ".join(self._by_kind)
        raise BadLine(f"no endpoint takes {dialect} requests, all speak {kinds}: add one that does with --url")


def _with_schema(member: SchemaMember, body: bytes, members: Mapping[str, object]) -> bytes:
    """Return a body that asks for the schema, unless it has a form of its own. The bytes of its members stay."""
    if _any_set(member.own, members):
        return body
    name = next((name for name in member.names if name in members), None)
    inside = None if name is None else members[name]
    value = member.value
    if name is not None and inside is not None:
        if type(inside) is not dict or _any_set(member.own_inside, inside):
            return body
        body, taken = take_out(body, (name,))
        rest, _ = take_out(orjson.dumps(taken[name]), member.own_inside)
        value = value if rest == b"{}" else b"%b,%b" % (value[:-1], rest[1:])
    elif name is not None:
        body, _ = take_out(body, (name,))
    return b'{"%b":%b,%b' % ((name or member.names[0]).encode(), value, body[1:])


def _any_set(names: Iterable[str], members: Mapping[str, object]) -> bool:
    return any(members.get(name) is not None for name in names)


def _bits(flags: Iterable[bool]) -> int:
    return sum(flag << index for index, flag in enumerate(flags))
