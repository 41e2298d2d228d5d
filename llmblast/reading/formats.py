"""The table of input formats and the choice among them, line by line."""

from collections.abc import Mapping
from typing import Protocol

from llmblast.reading.fields import BadLine
from llmblast.reading.openai_batch import OpenAIBatch
from llmblast.reading.raw import Raw
from llmblast.reading.simple import Simple
from llmblast.records import Request
from llmblast.settings import Settings


class Format(Protocol):
    """One way to write a request as a line."""

    def __init__(self, settings: Settings) -> None: ...

    def claims(self, fields: Mapping[str, object]) -> bool:
        """Whether a line looks like this format, unless one before it in the table has claimed it."""

    def shape(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """The request that a line asks for. Raises BadLine."""


FORMATS: dict[str, type[Format]] = {"openai-batch": OpenAIBatch, "raw": Raw, "simple": Simple}
"""By the name that `settings.format` knows, in the order in which they are asked."""


class Detector:
    """Finds a line's format; `settings.format` forces one. Raises UsageError where a format refuses the settings."""

    def __init__(self, settings: Settings) -> None:
        formats = {name: make(settings) for name, make in FORMATS.items()}
        self._formats = tuple(formats.values())
        self._forced = formats.get(settings.format)

    def format_of(self, fields: Mapping[str, object]) -> Format:
        """Raises BadLine."""
        if self._forced is not None:
            return self._forced
        for candidate in self._formats:
            if candidate.claims(fields):
                return candidate
        if "custom_id" in fields and "params" in fields:
            raise BadLine(
                "Anthropic batch lines are not supported: convert it to "
                '{"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}'
            )
        raise BadLine(
            'nothing to send: write {"input": "..."}, a request body with "messages", or "custom_id" with "body"; '
            "or name the line's fields with --prompt"
        )
