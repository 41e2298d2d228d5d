"""Request keys: a hash of all that decides what a request asks for, so that equal requests have equal keys.

That is the kind of provider, the path of the URL, the model and the bytes of the body. Host, API key and other headers
are left out: the same model may be served by several hosts. Only where nothing names a model, the host counts too,
since it is the host that chooses one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import urlsplit

import orjson

from llmblast.models import Rendering, Request

KEY_BYTES = 16
_PERSON = b"llmblast"


@dataclass(frozen=True, slots=True)
class Destination:
    """One endpoint as far as it decides what a request asks for. `base` is the base of its URL."""

    kind: str
    base: str
    model: str | None
    render: Callable[[Request], Request | Rendering]
    """Return path and body for this kind of provider."""


class RequestKeys:
    """Make the keys of requests, for the `destinations` of a run in the order of its endpoints."""

    def __init__(self, destinations: Sequence[Destination]) -> None:
        self._destinations = destinations
        self._groups = _groups_of(destinations)
        self._starts: dict[tuple[int, str, bool, str | None], blake2b] = {}
        """Hashes of what many requests have in common: by group, path, whether the body has no model, and the model."""

    def of(self, request: Request) -> tuple[bytes, ...]:
        """Return one key for each way in which some endpoint would get this request; none if no endpoint takes it."""
        if len(self._groups) == 1:
            return (self._key(0, request),)
        return tuple([self._key(group, request) for group in self._open_to(request)])

    def at(self, endpoint: int, request: Request) -> bytes | None:
        """Return that key of a request under which the endpoint with this index has got it."""
        keys = request.cache_keys
        if len(self._groups) == 1:
            return keys[0]
        groups = zip(self._open_to(request), keys, strict=True)
        return next((key for group, key in groups if self._groups[group][1] >> endpoint & 1), None)

    def kind_of(self, index: int, request: Request) -> str:
        """Return the kind of provider for which a request has its key with this index."""
        return self._groups[self._open_to(request)[index]][0].kind

    def _open_to(self, request: Request) -> list[int]:
        """Return the groups in which some endpoint may take the request."""
        closed_to = request.closed_to
        return [group for group, (_, endpoints) in enumerate(self._groups) if endpoints & ~closed_to]

    def _key(self, group: int, request: Request) -> bytes:
        destination = self._groups[group][0]
        asked = request if request.kind == destination.kind else destination.render(request)
        model = asked.model if asked.needs_model else None
        shared = (group, asked.path, asked.needs_model, model)
        start = self._starts.get(shared)
        if start is None:
            start = self._starts[shared] = _start(destination, asked, model)
        made = start.copy()
        made.update(asked.body)
        if request.headers:
            made.update(b"\0headers %b" % orjson.dumps(dict(request.headers), option=orjson.OPT_SORT_KEYS))
        if request.repeat > 1:  # a provider without seeds gets the same body for each repeat
            made.update(b"\0repeat %d" % request.repeat)
        return made.digest()


def _groups_of(destinations: Sequence[Destination]) -> list[tuple[Destination, int]]:
    """Return the destinations that differ, each with the bits of the endpoints that are like it."""
    groups: dict[tuple[str, str, str | None], tuple[Destination, int]] = {}
    for index, destination in enumerate(destinations):
        place = _path_in(destination.base) if destination.model else destination.base
        same = (destination.kind, place, destination.model)
        first, endpoints = groups.get(same, (destination, 0))
        groups[same] = (first, endpoints | 1 << index)
    return list(groups.values())


def _start(destination: Destination, asked: Request | Rendering, named: str | None) -> blake2b:
    path = f"{_path_in(destination.base)}/{asked.path}"
    model = (named or destination.model or "") if asked.needs_model else ""
    host = urlsplit(destination.base).netloc if asked.needs_model and not model else ""
    start = blake2b(digest_size=KEY_BYTES, person=_PERSON)
    for part in (destination.kind, host, path, model):
        data = part.encode("utf-8", "surrogatepass")
        start.update(b"%d:%b" % (len(data), data))
    return start


def _path_in(base: str) -> str:
    return urlsplit(base).path.rstrip("/")
