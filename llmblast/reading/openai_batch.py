"""The OpenAI batch format: `{"custom_id", "method", "url", "body"}`, answered in that API's output format.

Source of the format: OpenAI, Batch API, "Preparing your batch file"; Mistral and Together document it without `method`
and `url`. The endpoint decides where a request goes: only the path of `url` counts, and only paths are allowed whose
answers llmblast can read.
"""

from collections.abc import Mapping
from typing import ClassVar

from llmblast.api_paths import API_PATHS
from llmblast.models import Request
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_integers, with_exact_numbers
from llmblast.reading.fields import BadLine, compact_json, move_own_fields, without
from llmblast.reading.paths import DIALECTS, PathFinder, fits, path_of_url
from llmblast.settings import Settings

_ALLOWED = ", ".join(f"/{path}" if path.startswith("v2/") else f"/v1/{path}" for path in API_PATHS)
_MEMBERS = frozenset({"custom_id", "method", "url", "body"})


class OpenAIBatch:
    """Format of lines with `custom_id` and `body`; all other members of the line are the user's own fields."""

    members: ClassVar[frozenset[str]] = frozenset({"body"})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._paths = PathFinder(settings)
        self._router = router
        self._own_fields = frozenset(settings.own_fields)

    def claims(self, fields: dict[str, object]) -> bool:
        return "custom_id" in fields and "body" in fields

    def sends(self, name: str) -> bool:
        return False

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request in `body`. A `method` or `url` that is null counts as left out. Raises BadLine."""
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
            extra.update(with_exact_numbers(text, without(_MEMBERS, fields)))
        body = move_own_fields(body, self._own_fields, extra)
        return self._router.raw_request(
            number,
            key,
            text,
            line_id=custom_id,
            extra=extra,
            dialect=DIALECTS[self._path_of(fields.get("url"), body)],
            body=compact_json(body),
            members=body,
            output_format="openai-batch",
        )

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
