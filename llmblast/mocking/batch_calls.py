"""Calls of the files and batches APIs: a request that a route was found for, and the parts of its reply."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

import orjson

from llmblast.mocking.batch_store import Batch, BatchStore
from llmblast.mocking.error_replies import BadRequestError, error_body, invalid_type
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile


class _Identified(Protocol):
    @property
    def identity(self) -> str: ...


T = TypeVar("T", bound=_Identified)


@dataclass(slots=True, eq=False)
class BatchCall:
    """One request. `names` are the groups of its route's pattern, such as the identity of a batch.

    A route for uploads has the content of the body in `upload`, and the other fields of a form in `fields`.
    """

    store: BatchStore
    names: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    upload: StoredFile | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the body, which has to be an object. Raises BadRequestError."""
        if self.upload is not None:
            self.body = b"".join(self.upload.blocks())
        try:
            asked = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            message = f"We could not parse the JSON body of your request: {error}."
            raise BadRequestError(message, None, "invalid_json") from None
        if not isinstance(asked, dict):
            raise invalid_type("body", "an object", asked)
        return asked

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a number of the query, such as the size of a page. Raises BadRequestError."""
        text = self.query.get(name, str(default))
        if not text.isdecimal() or not low <= int(text) <= high:
            raise BadRequestError(f"Invalid '{name}': write a number from {low} to {high}.", name, "invalid_value")
        return int(text)

    def numbered_page(self, objects: Sequence[T], most: int) -> Sequence[T]:
        """Return the page of a list that the query asks for by a number, from 0. Raises BadRequestError."""
        size = self.number("page_size", 100, 1, most)
        first = self.number("page", 0, 0, len(objects)) * size
        return objects[first : first + size]

    def batch(self, api: str) -> Batch:
        """Return the batch that the path names. Raises BadRequestError."""
        found = self.store.find(self.names[-1], api)
        if found is None:
            raise not_found("batch", self.names[-1])
        return found

    def file(self, identity: str = "") -> StoredFile:
        """Return the file with this identity, or with the one in the path. Raises BadRequestError."""
        found = self.store.files.get(identity or self.names[-1])
        if found is None:
            raise not_found("file", identity or self.names[-1])
        return found


class Reading(Enum):
    """Ways to read the body of a request."""

    WHOLE = auto()
    """Into memory, within the limit for all requests."""
    FORM = auto()
    """A form in parts, of which the one with the name `file` is stored."""
    CONTENT = auto()
    """Stored as it is."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a pattern of paths with their handler. `api` is the one whose form errors have."""

    api: str
    method: str
    pattern: str
    handle: Callable[[BatchCall], ScriptedReply]
    reading: Reading = Reading.WHOLE
    is_open: bool = False
    """Nobody needs a key."""


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> ScriptedReply:
    """Return a reply with a JSON body."""
    return ScriptedReply(status, orjson.dumps(value), headers or {})


def content_reply(blocks: Iterable[bytes], media_type: str = "application/octet-stream") -> ScriptedReply:
    """Return a reply that streams the content of files."""
    return ScriptedReply(events=blocks, headers={"Content-Type": media_type})


def not_found(what: str, identity: str) -> BadRequestError:
    """Return the error for an object that there is not."""
    return BadRequestError(f"No such {what.capitalize()} object: {identity}", "id", "not_found", status=404)


def conflict(message: str) -> ScriptedReply:
    """Return the error for something that the state of an object does not allow."""
    return ScriptedReply(409, error_body(message, "invalid_request_error"))


def moment(epoch_s: float) -> str:
    """Return a time as RFC 3339 has it."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def page_of(objects: Sequence[T], limit: int, after: str | None, before: str | None = None) -> tuple[Sequence[T], bool]:
    """Return a page of a list behind, or else in front of, the object with an identity, and whether it has more."""
    places = {one.identity: index for index, one in enumerate(objects)}
    if before:
        rest = objects[: places.get(before, 0)]
        return rest[-limit:], len(rest) > limit
    if after:
        objects = objects[places.get(after, len(objects)) + 1 :]
    return objects[:limit], len(objects) > limit
