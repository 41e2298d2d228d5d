"""Request parser: turn a line into a Request, or a bad line into a Failure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from llmblast.models import Failure, Line, Provider, Request, UnsupportedError
from llmblast.reading.dialect_router import DialectRouter, SchemaMembers
from llmblast.reading.fields import BadLine, parse_fields
from llmblast.reading.formats import Detector
from llmblast.reading.lines import BOM
from llmblast.reading.oversized_line import OversizedLine
from llmblast.settings import Settings

BAD_LINE: Final = "bad_line"
MIN_BODY_BYTES: Final = 1024
"""Smaller bodies hold no image whose tokens matter."""


class RequestParser:
    """Parse lines by the settings of the run, for the `providers` of its endpoints (at least one).

    `schema_members` are what raw bodies need to ask for answers that fit a schema; see `DialectRouter`. Raises
    UsageError where the settings are invalid.
    """

    def __init__(
        self, settings: Settings, providers: Sequence[Provider], schema_members: SchemaMembers | None = None
    ) -> None:
        self._detector = Detector(settings, DialectRouter(providers, schema_members))
        models = {endpoint.model or settings.model for endpoint in settings.endpoints} or {settings.model}
        self._model = models.pop() if len(models) == 1 else None

    def parse(self, number: int, key: str, text: bytes) -> Request | Failure:
        """Return the request of a line, or a Failure with the code `bad_line`; no line raises an exception."""
        if type(text) is OversizedLine:
            excerpt = bytes(text)
            message = f"the line has {text.size_bytes} bytes, more than 64 MiB: split it; only its start is kept"
            return _failure(Line(number, key, excerpt, number), BadLine(message))
        try:
            fields = parse_fields(text)
        except BadLine as bad:
            if text.startswith(BOM):  # of a file that was appended to another
                result = self.parse(number, key, text.removeprefix(BOM).strip())
                if isinstance(result, Request):
                    return result
            return _failure(Line(number, key, text, number), bad)
        try:
            request = self._detector.format_of(fields).parse(number, key, text, fields)
        except (BadLine, UnsupportedError) as error:
            reason = error if isinstance(error, BadLine) else BadLine(str(error))
            return _failure(Line(number, key, text, _readable_id(fields, number)), reason)
        if len(request.body) > MIN_BODY_BYTES and _may_hold_images(fields):
            from llmblast.reading.image_tokens import measure  # noqa: PLC0415 -- 2 ms; most runs send no images

            image_bytes, image_tokens = measure(request.body, request.model or self._model)
            request = replace(request, image_bytes=image_bytes, image_tokens=image_tokens)
        return request


def _may_hold_images(fields: Mapping[str, object]) -> bool:
    """Return whether a request has images or a message in parts; a search of each body would cost too much."""
    body, params = fields.get("body"), fields.get("params")
    asked: Mapping[str, object] = body if type(body) is dict else fields
    if type(params) is dict and "messages" in params:
        asked = params
    if asked.get("images"):
        return True
    messages = asked.get("messages", asked.get("input"))
    return type(messages) is list and any(
        type(message) is dict and type(message.get("content")) is list for message in messages
    )


def _readable_id(fields: dict[str, object], number: int) -> str | int:
    """Return the id of a bad line: like `own_id`, but ignore an invalid id."""
    candidates = (fields.get("custom_id"), fields.get("id"))
    return next((value for value in candidates if type(value) is str or type(value) is int), number)


def _failure(line: Line, bad: BadLine) -> Failure:
    return Failure(line, f"line {line.number}, column {bad.column}: {bad.message}", BAD_LINE)
