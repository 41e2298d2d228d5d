"""Request parser: turn a line into a Request, or a bad line into a Failure."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llmblast.input_paths import STDIN_NAME
from llmblast.models import IMMEDIATE, Failure, Line, Request, Terms
from llmblast.provider_contract import Provider, UnsupportedError
from llmblast.reading.bad_row import BadRow
from llmblast.reading.dialect_router import DialectRouter, SchemaMembers
from llmblast.reading.fields import BadLine, parse_fields, without
from llmblast.reading.formats import Detector
from llmblast.reading.input_places import LINE, input_place
from llmblast.reading.line_choices import ENDPOINT, HEADERS, LineChoices
from llmblast.reading.lines import BOM
from llmblast.reading.members import take_out
from llmblast.reading.oversized_line import OversizedLine
from llmblast.reading.paths import WITHOUT_TEXT
from llmblast.reading.terms import PRIORITY, TERMS, LineTerms
from llmblast.settings import Settings

if TYPE_CHECKING:
    from llmblast.reading.field_map import FieldMap

BAD_LINE: Final = "bad_line"
_UNUSUAL: Final = TERMS | {ENDPOINT, HEADERS}
"""Members that most lines do not have, and that are no part of the request."""
MIN_BODY_BYTES: Final = 1024
"""Smaller bodies hold no image whose tokens matter."""


class RequestParser:
    """Parse lines by the settings of the run, for the `providers` of its endpoints (at least one).

    `schema_members` are what raw bodies need to ask for answers that fit a schema; see `DialectRouter`. `terms` reads
    those of the lines. Raises UsageError where the settings are invalid.
    """

    def __init__(
        self,
        settings: Settings,
        providers: Sequence[Provider],
        schema_members: SchemaMembers | None = None,
        terms: LineTerms | None = None,
    ) -> None:
        self._name, self._unit = STDIN_NAME, LINE
        self._detector = Detector(settings, DialectRouter(providers, schema_members))
        self._field_map = _open_map(settings.map) if settings.map else None
        self._choices = LineChoices(settings)
        self.terms = LineTerms(time.time(), settings.own_fields) if terms is None else terms
        self._has_default_terms = self.terms.defaults is not IMMEDIATE
        self._model = settings.only_model
        checks = (settings.expect, settings.schema, settings.expect_regex, settings.expect_command)
        self._texts_are_checked = any(check is not None for check in checks)

    def parse(self, number: int, key: str, text: bytes) -> Request | Failure:
        """Return the request of a line, or a Failure with the code `bad_line`; no line raises an exception."""
        if type(text) is not bytes and (failure := self._unreadable(number, key, text)) is not None:
            return failure
        try:
            fields = parse_fields(text)
        except BadLine as bad:
            if text.startswith(BOM):  # of a file that was appended to another
                result = self.parse(number, key, text.removeprefix(BOM).strip())
                if isinstance(result, Request):
                    return result
            return self._failure(Line(number, key, text, number), bad)
        original, displaced = text, None
        try:
            if self._field_map is not None:
                text, fields, displaced = self._field_map.rename(text, fields)
            if _UNUSUAL.isdisjoint(fields):
                request = self._detector.format_of(fields).parse(number, key, text, fields)
                if self._has_default_terms:
                    request.terms = self.terms.defaults
            else:
                request = self._parse_unusual(number, key, text, fields)
            if self._texts_are_checked and request.path in WITHOUT_TEXT:
                raise BadLine(
                    f"answers of {request.path} have no text to check: send such lines in a run without checks"
                )
        except (BadLine, UnsupportedError) as error:
            reason = error if isinstance(error, BadLine) else BadLine(str(error))
            return self._failure(Line(number, key, original, _readable_id(fields, number)), reason)
        if len(request.body) > MIN_BODY_BYTES and not request.image_bytes and _may_hold_images(fields):
            from llmblast.reading.image_tokens import measure  # noqa: PLC0415 -- 2 ms; most runs send no images

            image_bytes, image_tokens = measure(request.body, request.model or self._model)
            request = replace(request, image_bytes=image_bytes, image_tokens=image_tokens)
        if displaced is not None:  # the record keeps the line as it was
            extra = {**(request.extra or {}), **displaced}
            request = replace(request, text=original, extra=extra or None)
        return request

    def _unreadable(self, number: int, key: str, text: bytes) -> Failure | None:
        """Return the Failure of what stands for a line that cannot be read; None for a line."""
        if type(text) is BadRow:
            bad_line = Line(number, key, bytes(text), number)
            return Failure(bad_line, f"{input_place(self._name, self._unit, number)}: {text.reason}", BAD_LINE)
        if type(text) is not OversizedLine:
            return None
        message = f"the line has {text.size_bytes} bytes, more than 64 MiB: split it; only its start is kept"
        return self._failure(Line(number, key, bytes(text), number), BadLine(message))

    def read_terms(self, text: bytes) -> Terms | None:
        """Return the terms of a line, without a look at the rest; None for a line that has an error."""
        if type(text) is not bytes:
            return None
        try:
            fields = parse_fields(text)
            if self._field_map is not None:
                text, fields, _ = self._field_map.rename(text, fields)
            if TERMS.isdisjoint(fields):
                return self.terms.defaults
            return self.terms.read(fields, sends_priority=self._sends_priority(fields))
        except BadLine:
            return None

    def _parse_unusual(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request of a line that names its terms, its endpoint or its headers. Raises BadLine."""
        whole = text
        choices = self._choices.read(text, fields)
        if choices is not None:
            text, fields = choices.text, choices.fields
        terms = self.terms.defaults
        if not TERMS.isdisjoint(fields):
            sends_priority = self._sends_priority(fields)
            terms = self.terms.read(fields, sends_priority=sends_priority)
            if sends_priority and self.terms.is_word(fields):
                text, fields = take_out(text, (PRIORITY,))[0], without((PRIORITY,), fields)
        request = self._detector.format_of(fields).parse(number, key, text, fields)
        if choices is not None:
            request = self._choices.apply(request, choices, whole)
        elif text is not whole:
            request = replace(request, text=whole)
        request.terms = terms
        return request

    def _sends_priority(self, fields: dict[str, object]) -> bool:
        return PRIORITY in fields and self._detector.format_of(fields).sends(PRIORITY)

    def take_rows_of(self, name: str, unit: str, columns: Sequence[str], *, is_typed: bool) -> None:
        """Parse lines of the file `name` from now on. Columns that no provider knows are never sent."""
        self._name, self._unit = name, unit
        self._detector.take_columns(columns, is_typed=is_typed)

    def _failure(self, line: Line, bad: BadLine) -> Failure:
        place = input_place(self._name, self._unit, line.number, bad.column)
        return Failure(line, f"{place}: {bad.message}", BAD_LINE)


def _open_map(names: Mapping[str, str]) -> "FieldMap":
    from llmblast.reading.field_map import FieldMap  # noqa: PLC0415 -- most files have the usual names

    return FieldMap(names)


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
