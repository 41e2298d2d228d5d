"""The OpenAI batch format: `{"custom_id", "method", "url", "body"}`, answered in that API's output format.

Source of the format: OpenAI, Batch API, "Preparing your batch file"; Mistral and Together document it without `method`
and `url`. Where a request goes is the endpoint's affair: of `url` only the path counts, and only paths that llmblast
can read the answers of.
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_integers, with_exact_numbers
from llmblast.reading.fields import BadLine, max_tokens_of, model_of, needs_model
from llmblast.reading.paths import DIALECTS, PathFinder, fits, path_of_url
from llmblast.records import RawBody, Request
from llmblast.settings import API_PATHS, Settings

_ALLOWED = ", ".join(f"/{path}" if path.startswith("v2/") else f"/v1/{path}" for path in API_PATHS)
_MEMBERS = frozenset({"custom_id", "method", "url", "body"})


class OpenAIBatch:
    """Takes lines with `custom_id` and `body`; all other members of the line are the user's own."""

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._paths = PathFinder(settings)
        self._router = router
        self._own_fields = frozenset(settings.own_fields)

    def claims(self, fields: Mapping[str, object]) -> bool:
        return "custom_id" in fields and "body" in fields

    def parse(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Raises BadLine. A `method` or `url` that is null counts as left out."""
        custom_id = fields.get("custom_id")
        if type(custom_id) is not str and type(custom_id) is not int:
            raise BadLine('a batch line needs a "custom_id" that is a string or an integer of at most 64 bits')
        _check_method(fields.get("method"))
        body = fields.get("body")
        if type(body) is not dict:
            raise BadLine('"body" must be an object: the request to send')
        body = with_exact_integers(text, "body", body)
        extra: dict[str, object] = {}
        if len(fields) > 2:
            beside = {name: value for name, value in fields.items() if name not in _MEMBERS}
            extra.update(with_exact_numbers(text, beside))
        if not self._own_fields.isdisjoint(body):
            extra.update({name: value for name, value in body.items() if name in self._own_fields})
            body = {name: value for name, value in body.items() if name not in self._own_fields}
        router, dialect = self._router, DIALECTS[self._path_of(fields.get("url"), body)]
        route = router.routes.get(dialect) or router.route_of(dialect)
        # A copy: what orjson returns keeps the place that it was written into, many times its size, and lines wait.
        body_bytes = bytes(memoryview(orjson.dumps(body)))
        request = Request(
            number,
            key,
            text,
            custom_id,
            orjson.Fragment(body_bytes),
            extra or None,
            path=route.path,
            body=body_bytes,
            kind=route.kind,
            needs_model=needs_model(body),
            model=model_of(body),
            max_tokens=max_tokens_of(body),
            output_format="openai-batch",
        )
        if router.is_mixed:
            request = replace(request, content=RawBody(dialect), closed_to=route.closed_to)
        return request

    def _path_of(self, url: object, body: Mapping[str, object]) -> str:
        if url is None:
            path = self._paths.find(body)
            if path is None:
                raise BadLine('"body" must have "messages", "input" or "prompt", or the line a "url"')
            return path
        path = path_of_url(url) if type(url) is str else None
        if path is None:
            raise BadLine(f'"url" must be one of {_ALLOWED}')
        if not fits(path, body):
            raise BadLine(f'"body" has no "{API_PATHS[path][0]}", which {path} needs')
        return path


def _check_method(method: object) -> None:
    if method is None or method == "POST":
        return
    if type(method) is not str or method.upper() != "POST":
        raise BadLine('"method" must be "POST"')
