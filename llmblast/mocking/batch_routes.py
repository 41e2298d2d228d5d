"""Routes of the files and batches APIs: each API has its own, and each is a line in the table of its module."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from llmblast.mocking import (
    anthropic_batches,
    gemini_batches,
    gemini_files,
    mistral_batches,
    openai_batches,
    openai_files,
)
from llmblast.mocking.batch_calls import BatchCall, Route
from llmblast.mocking.batch_store import BatchStore
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.quick import Incoming
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile

ROUTES = (
    *openai_files.ROUTES,
    *openai_batches.ROUTES,
    *anthropic_batches.ROUTES,
    *gemini_files.ROUTES,
    *gemini_batches.ROUTES,
    *mistral_batches.ROUTES,
)
_OF_GOOGLE = ("x-goog-api-key", "x-goog-api-client")


class Upload(NamedTuple):
    """The stored content of a body, and the fields of a form beside it."""

    file: StoredFile | None
    fields: Mapping[str, str]


class Found(NamedTuple):
    """A route, and the parts of the path that it names."""

    route: Route
    names: tuple[str, ...]


def find_call(incoming: Incoming) -> Found | None:
    """Return the route of a request; `/v1/files` is Google's for its own clients, and OpenAI's for all others."""
    path = incoming.path.partition("?")[0]
    if path.startswith("/v1/") and any(name in incoming.headers for name in _OF_GOOGLE):
        path = f"/v1beta/{path.removeprefix('/v1/')}"
    return _find_route(incoming.method, path)


@lru_cache(maxsize=1024)
def _find_route(method: str, path: str) -> Found | None:
    for route in ROUTES:
        if route.method == method and (found := re.fullmatch(route.pattern, path)) is not None:
            return Found(route, found.groups())
    return None


def methods_of(path: str) -> str:
    """Return the methods of a path, with commas between; an empty text where there is no route."""
    return ", ".join(sorted({route.method for route in ROUTES if re.fullmatch(route.pattern, path)}))


def answer_call(store: BatchStore, found: Found, incoming: Incoming, upload: Upload | None) -> ScriptedReply:
    """Return the reply to a request."""
    query = dict(parse_qsl(urlsplit(incoming.path).query))
    call = BatchCall(store, found.names, query, incoming.headers, incoming.body)
    if upload is not None:
        call.upload, call.fields = upload
    try:
        return found.route.handle(call)
    except BadRequestError as error:
        return ScriptedReply(error.status, error.body)
