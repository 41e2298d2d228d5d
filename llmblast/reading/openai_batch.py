"""The OpenAI batch format: `{"custom_id", "method", "url", "body"}`, answered in that API's output format.

Source of the format: OpenAI, Batch API, "Preparing your batch file". Where a request goes is the endpoint's affair:
of `url` only the path counts, and only paths that llmblast can read the answers of.
"""

import re
from collections.abc import Mapping

import orjson

from llmblast.reading.fields import API_PATH_OF, BadLine, max_tokens_of, model_of, needs_model
from llmblast.records import Request
from llmblast.settings import API_PATHS, Settings

_URL = re.compile(rf"(?:https?://[^/?#]+)?/?(?:v1/)?({'|'.join(map(re.escape, API_PATHS))})/?(?:[?#].*)?", re.DOTALL)
_MEMBER_OF = {path: member for member, path in API_PATH_OF.items()}


class OpenAIBatch:
    """Takes lines with `custom_id` and `body`."""

    def __init__(self, settings: Settings) -> None:
        """No setting changes a batch line."""

    def claims(self, fields: Mapping[str, object]) -> bool:
        return "custom_id" in fields and "body" in fields

    def shape(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Raises BadLine."""
        custom_id = fields.get("custom_id")
        if type(custom_id) is not str:
            raise BadLine('a batch line needs a "custom_id" that is a text')
        if fields.get("method", "POST") != "POST":
            raise BadLine('"method" must be "POST"')
        path = _path_of(fields.get("url"))
        body = fields.get("body")
        if type(body) is not dict:
            raise BadLine('"body" must be an object: the request to send')
        if _MEMBER_OF[path] not in body:
            raise BadLine(f'"body" has no "{_MEMBER_OF[path]}", which {path} needs')
        # A copy: what orjson returns keeps the place that it was written into, many times its size, and lines wait.
        body_bytes = bytes(memoryview(orjson.dumps(body)))
        return Request(
            number,
            key,
            text,
            custom_id,
            orjson.Fragment(body_bytes),
            path=path,
            body=body_bytes,
            needs_model=needs_model(body),
            model=model_of(body),
            max_tokens=max_tokens_of(body),
            output_format="openai-batch",
        )


def _path_of(url: object) -> str:
    match = _URL.fullmatch(url) if type(url) is str else None
    if match is None:
        allowed = ", ".join(f"/v1/{path}" for path in API_PATHS)
        raise BadLine(f'"url" must be one of {allowed}')
    return match[1]
