"""Bedrock's formats: bodies of its Converse API, and batch lines with such a body, `{"recordId", "modelInput"}`.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
https://docs.aws.amazon.com/bedrock/latest/userguide/batch-inference-data.html
"""

from collections.abc import Mapping
from typing import ClassVar

from llmblast.models import Request
from llmblast.reading.cloud_body import CloudBodies
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.fields import BadLine
from llmblast.settings import Settings

DIALECT = "bedrock.converse"
_LIMIT = ("inferenceConfig", "maxTokens")
_ONLY_IN_CONVERSE = frozenset(
    {"modelId", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields", "performanceConfig"}
)
_BLOCKS = frozenset({"text", "image", "document", "video", "toolUse", "toolResult", "cachePoint", "reasoningContent"})


class ConverseBody:
    """Format of lines with `messages` in the form of the Converse API; `modelId` or `model` go into the URL."""

    dialect = DIALECT
    members: ClassVar[frozenset[str]] = frozenset({"messages"})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._bodies = CloudBodies(settings, router, DIALECT, "modelId", _LIMIT)

    def claims(self, fields: dict[str, object]) -> bool:
        return is_converse(fields)

    def sends(self, name: str) -> bool:
        return self._bodies.sends(name)

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request that sends the line. Raises BadLine."""
        if "messages" not in fields:
            raise BadLine('a request of Bedrock needs "messages": [{"role": "user", "content": [{"text": "..."}]}]')
        return self._bodies.raw(number, key, text, fields)


class BedrockBatch:
    """Format of lines with a `modelInput`, and mostly a `recordId`, which names the line."""

    dialect = DIALECT
    members: ClassVar[frozenset[str]] = frozenset({"modelInput"})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._bodies = CloudBodies(settings, router, DIALECT, "modelId", _LIMIT)

    def claims(self, fields: dict[str, object]) -> bool:
        body = fields.get("modelInput")
        return type(body) is dict and is_converse(body)

    def sends(self, name: str) -> bool:
        return False

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request in `modelInput`. Raises BadLine."""
        if not self.claims(fields):
            raise BadLine('"modelInput" must be a request of the Converse API: other forms are those of one model')
        return self._bodies.wrapped(number, key, text, fields, id_name="recordId", body_name="modelInput")


def is_converse(body: Mapping[str, object]) -> bool:
    """Return whether a body with `messages` has members that only this API has, or parts without a type."""
    messages = body.get("messages")
    if type(messages) is not list:
        return False
    if not _ONLY_IN_CONVERSE.isdisjoint(body):
        return True
    first = messages[0] if messages else None
    parts = first.get("content") if type(first) is dict else None
    part = parts[0] if type(parts) is list and parts else None
    return type(part) is dict and "type" not in part and not _BLOCKS.isdisjoint(part)
