"""Gemini's formats: bodies of generateContent, and the lines of its batch files, `{"key", "request"}`.

Vertex AI's batch lines have the `request` only. Sources: https://ai.google.dev/api/generate-content,
https://ai.google.dev/gemini-api/docs/batch-api, https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-from-cloud-storage
"""

from collections.abc import Mapping
from typing import ClassVar

from llmblast.models import Request
from llmblast.reading.cloud_body import CloudBodies
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.fields import BadLine
from llmblast.settings import Settings

DIALECT = "gemini.generate"
_CONTENTS = "contents"
_LIMIT = ("generationConfig", "maxOutputTokens")


class GeminiBody:
    """Format of lines with `contents`; a `model` in them goes into the URL."""

    dialect = DIALECT
    members: ClassVar[frozenset[str]] = frozenset({_CONTENTS})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._bodies = CloudBodies(settings, router, DIALECT, "model", _LIMIT)

    def claims(self, fields: dict[str, object]) -> bool:
        return _has_contents(fields) and "messages" not in fields

    def sends(self, name: str) -> bool:
        return self._bodies.sends(name)

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request that sends the line. Raises BadLine."""
        if not _has_contents(fields):
            raise BadLine('a request of Gemini needs "contents": [{"role": "user", "parts": [{"text": "..."}]}]')
        return self._bodies.raw(number, key, text, fields)


class GeminiBatch:
    """Format of lines with a `request`, and mostly a `key`, which names the line; all others are the user's fields."""

    dialect = DIALECT
    members: ClassVar[frozenset[str]] = frozenset({"request"})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._bodies = CloudBodies(settings, router, DIALECT, "model", _LIMIT)

    def claims(self, fields: dict[str, object]) -> bool:
        request = fields.get("request")
        return type(request) is dict and _has_contents(request)

    def sends(self, name: str) -> bool:
        return False

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request in `request`. Raises BadLine."""
        if not self.claims(fields):
            raise BadLine('a batch line of Gemini needs a "request" with "contents"')
        return self._bodies.wrapped(number, key, text, fields, id_name="key", body_name="request")


def _has_contents(body: Mapping[str, object]) -> bool:
    return type(body.get(_CONTENTS)) in (list, dict)
