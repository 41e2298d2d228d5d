"""Request parser: turn a line into a Request, or a bad line into a Failure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from llmblast.models import Failure, Line, Provider, Request, UnsupportedError
from llmblast.reading.bad_row import BadRow
from llmblast.reading.dialect_router import DialectRouter, SchemaMembers
from llmblast.reading.field_map import FieldMap
from llmblast.reading.fields import BadLine, parse_fields
from llmblast.reading.formats import Detector
from llmblast.reading.line_choices import ENDPOINT, HEADERS, LineChoices
from llmblast.reading.lines import BOM
from llmblast.reading.oversized_line import OversizedLine
from llmblast.reading.paths import WITHOUT_TEXT
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
        self.unit = "line"
        """What the numbers of lines count in the current file, for messages."""
        self._detector = Detector(settings, DialectRouter(providers, schema_members))
        self._field_map = FieldMap(settings.map) if settings.map else None
        self._choices = LineChoices(settings)
        self._model = settings.only_model
        checks = (settings.expect, settings.schema, settings.expect_regex, settings.expect_command)
        self._texts_are_checked = any(check is not None for check in checks)

    def parse(self, number: int, key: str, text: bytes) -> Request | Failure:
        """Return the request of a line, or a Failure with the code `bad_line`; no line raises an exception."""
        if type(text) is BadRow:
            bad_line = Line(number, key, bytes(text), number)
            return Failure(bad_line, f"{self.unit} {number}: {text.reason}", BAD_LINE)
        if type(text) is OversizedLine:
            excerpt = bytes(text)
            message = f"the line has {text.size_bytes} bytes, more than 64 MiB: split it; only its start is kept"
            return self._failure(Line(number, key, excerpt, number), BadLine(message))
        try:
            fields = parse_fields(text)
        except BadLine as bad:
            if text.startswith(BOM):  # of a file that was appended to another
                result = self.parse(number, key, text.removeprefix(BOM).strip())
                if isinstance(result, Request):
                    return result
            return self._failure(Line(number, key, text, number), bad)
        if self._field_map is not None:
            return self._parse_renamed(self._field_map, Line(number, key, text, number), fields)
        return self._parse_fields(number, key, text, fields)

    def _parse_renamed(self, field_map: FieldMap, line: Line, fields: dict[str, object]) -> Request | Failure:
        """Parse a line with other names; its record keeps the line as it was."""
        number, key, text = line.number, line.key, line.text
        try:
            renamed = field_map.rename(text, fields)
        except BadLine as bad:
            return self._failure(Line(number, key, text, _readable_id(fields, number)), bad)
        result = self._parse_fields(number, key, renamed.text, renamed.fields)
        if isinstance(result, Failure):
            return replace(result, line=Line(number, key, text, result.line.id))
        extra = {**(result.extra or {}), **renamed.displaced}
        return replace(result, text=text, extra=extra or None)

    def _parse_fields(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request | Failure:
        try:
            if ENDPOINT in fields or HEADERS in fields:
                request = self._parse_with_choices(number, key, text, fields)
            else:
                request = self._detector.format_of(fields).parse(number, key, text, fields)
        except (BadLine, UnsupportedError) as error:
            reason = error if isinstance(error, BadLine) else BadLine(str(error))
            return self._failure(Line(number, key, text, _readable_id(fields, number)), reason)
        if self._texts_are_checked and request.path in WITHOUT_TEXT:
            reason = BadLine(
                f"answers of {request.path} have no text to check: send such lines in a run without checks"
            )
            return self._failure(Line(number, key, text, request.id), reason)
        if len(request.body) > MIN_BODY_BYTES and not request.image_bytes and _may_hold_images(fields):
            from llmblast.reading.image_tokens import measure  # noqa: PLC0415 -- 2 ms; most runs send no images

            image_bytes, image_tokens = measure(request.body, request.model or self._model)
            request = replace(request, image_bytes=image_bytes, image_tokens=image_tokens)
        return request

    def _parse_with_choices(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        choices = self._choices.read(text, fields)
        if choices is None:
            return self._detector.format_of(fields).parse(number, key, text, fields)
        fmt = self._detector.format_of(choices.fields)
        return self._choices.apply(fmt.parse(number, key, choices.text, choices.fields), choices, text)

    def take_rows_of(self, unit: str, columns: Sequence[str], *, is_typed: bool) -> None:
        """Parse lines of a file with such rows from now on. Columns that no provider knows are never sent."""
        self.unit = unit
        self._detector.take_columns(columns, is_typed=is_typed)

    def _failure(self, line: Line, bad: BadLine) -> Failure:
        return Failure(line, f"{self.unit} {line.number}, column {bad.column}: {bad.message}", BAD_LINE)


def _may_hold_images(fields: dict[str, object]) -> bool:
    """Return whether a request has images or a message in parts; a search of each body would cost too much."""
    body, params = fields.get("body"), fields.get("params")
    asked: Mapping[str, object] = body if type(body) is dict else fields
    if type(params) is dict and "messages" in params:
        asked = params
    messages = asked.get("messages", asked.get("input"))
    return type(messages) is list and any(
        type(message) is dict and type(message.get("content")) is list for message in messages
    )


def _readable_id(fields: dict[str, object], number: int) -> str | int:
    """Return the id of a bad line: like `own_id`, but ignore an invalid id."""
    candidates = (fields.get("custom_id"), fields.get("id"))
    return next((value for value in candidates if type(value) is str or type(value) is int), number)
