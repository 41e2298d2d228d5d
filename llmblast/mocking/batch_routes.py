"""Routes of the files and batches APIs: each API has its own, and each is a line in the table of its module."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from llmblast.mocking import anthropic_batches, openai_batches, openai_files
from llmblast.mocking.batch_calls import BatchCall, Reading, Route
from llmblast.mocking.batch_store import BatchStore
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.quick import Incoming
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile

ROUTES = (*openai_files.ROUTES, *openai_batches.ROUTES, *anthropic_batches.ROUTES)


class Upload(NamedTuple):
    """The stored content of a body, and the fields of a form beside it."""

    file: StoredFile | None
    fields: Mapping[str, str]


class Found(NamedTuple):
    """A route, and the parts of the path that it names."""

    route: Route
    names: tuple[str, ...]


@lru_cache(maxsize=1024)
def find_route(method: str, path: str) -> Found | None:
    """Return the route of a path without its query."""
    for route in ROUTES:
        if route.method == method and (found := re.fullmatch(route.pattern, path)) is not None:
            return Found(route, found.groups())
    return None


def methods_of(path: str) -> str:
    """Return the methods of a path, with commas between; an empty text where there is no route."""
    return ", ".join(sorted({route.method for route in ROUTES if re.fullmatch(route.pattern, path)}))


def stores_body(method: str, path: str) -> bool:
    """Return whether the body goes to a file as it comes."""
    found = find_route(method, path.partition("?")[0])
    return found is not None and found.route.reading is not Reading.WHOLE


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
