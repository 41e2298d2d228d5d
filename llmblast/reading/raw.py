"""The raw format: the line is a request body and is sent byte for byte, but for what is the user's own.

Without a `model` of its own the endpoint's is put in front when it is sent: the line is a JSON object with at least one
member, so `{"model":"m",` followed by all that comes after its first brace is that object with a model.
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.fields import BadLine, max_tokens_of, model_of, needs_model, own_id
from llmblast.reading.members import take_out, take_out_id
from llmblast.reading.paths import DIALECTS, PathFinder
from llmblast.reading.raw_dialects import MESSAGES, RawDialects
from llmblast.records import RawBody, Request
from llmblast.settings import Settings

_CHAT_PATH = "chat/completions"
_IDS = frozenset({"id", "custom_id"})


class Raw:
    """Takes lines with `model` or `messages`. A line's own `id` or `custom_id` is its id; many providers refuse a
    request with one, so it is not sent, and neither are the fields named by `own_fields`.
    """

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._paths = PathFinder(settings)
        self._router = router
        self._dialects = RawDialects(router) if router.speaks(MESSAGES) else None
        self._own_fields = _IDS.union(settings.own_fields)

    def claims(self, fields: Mapping[str, object]) -> bool:
        return "messages" in fields or "model" in fields

    def parse(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Raises BadLine."""
        line_id, body = own_id(fields, number), text
        extra: dict[str, orjson.Fragment] | None = None
        if not self._own_fields.isdisjoint(fields):
            body, extra = self._split(text, fields)
            fields = {name: value for name, value in fields.items() if name not in self._own_fields}
        path = self._paths.find(fields)
        if path is None:
            raise BadLine('a raw request needs "messages", "input" or "prompt"')
        router = self._router
        dialect = DIALECTS[path]
        if self._dialects is not None and path == _CHAT_PATH:
            dialect = self._dialects.dialect_of(fields)
        route = router.routes.get(dialect) or router.route_of(dialect)
        request = Request(
            number,
            key,
            text,
            line_id,
            orjson.Fragment(body),
            extra or None,
            path=route.path,
            body=body,
            kind=route.kind,
            needs_model=needs_model(fields),
            model=model_of(fields),
            max_tokens=max_tokens_of(fields),
        )
        if router.is_mixed:
            request = replace(request, content=RawBody(dialect), closed_to=route.closed_to)
        return request

    def _split(self, text: bytes, fields: Mapping[str, object]) -> tuple[bytes, dict[str, orjson.Fragment]]:
        """Return what is sent, and what is the user's own but no id."""
        own = self._own_fields.intersection(fields)
        if len(own) == 1 and own <= _IDS and (body := take_out_id(text, *own)) is not None:
            return body, {}
        body, taken = take_out(text, own)
        return body, {name: value for name, value in taken.items() if name not in _IDS}
