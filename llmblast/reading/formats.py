"""Table of the input formats, and detection of the format of each line."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from llmblast.models import Request
from llmblast.reading.anthropic_batch import AnthropicBatch
from llmblast.reading.bedrock import BedrockBatch, ConverseBody
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.fields import BadLine, without
from llmblast.reading.gemini import GeminiBatch, GeminiBody
from llmblast.reading.openai_batch import OpenAIBatch
from llmblast.reading.paths import path_of_body
from llmblast.reading.raw import Raw
from llmblast.reading.simple import Simple
from llmblast.settings import Settings


class Format(Protocol):
    """A way to write a request as a line."""

    def __init__(self, settings: Settings, router: DialectRouter) -> None: ...

    def claims(self, fields: dict[str, object]) -> bool:
        """Return whether a line looks like this format; formats before this one in the table are asked first."""

    def sends(self, name: str) -> bool:
        """Return whether this member of a line would be a member of the request, as where the line is one."""

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request that a line asks for. Raises BadLine."""


FORMATS: dict[str, type[Format]] = {
    "openai-batch": OpenAIBatch,
    "anthropic-batch": AnthropicBatch,
    "gemini-batch": GeminiBatch,
    "gemini": GeminiBody,
    "bedrock-batch": BedrockBatch,
    "bedrock": ConverseBody,
    "raw": Raw,
    "simple": Simple,
}
"""By the values of the setting `format`, in the order of detection. A format may have the `dialect` of its bodies,
and `members`: a line without any of these is not of that format, so that it need not be asked."""

_FOREIGN = {
    ("modelInput",): "Bedrock InvokeModel batch",
    ("instances",): "Vertex batch",
    ("conversations",): "ShareGPT",
}
"""Names of formats that are not supported, by the members of their lines; the last member is an object or a list."""
_BATCH_LINE = '{"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}'
_POSSIBLE = 'write {"input": "..."}, a request body with "messages", or "custom_id" with "body"'
_NOT_IN_A_PLACE = frozenset(".[]{}!:'")
"""Characters with a meaning in a shell or a template."""
_SHOWN_FIELDS = 8
_SHOWN_CHARACTERS = 40


class Detector:
    """Detect the format of lines; `settings.format` forces one. Raises UsageError where settings are invalid."""

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        formats = {name: make(settings, router) for name, make in FORMATS.items()}
        raw = formats["raw"]
        self._column_taker = raw if isinstance(raw, Raw) else None
        self._formats = tuple(sorted(formats.values(), key=partial(_is_unheard_of, router)))
        self._forced = formats.get(settings.format)
        self._raw = formats["raw"]
        self._simple = formats["simple"]
        members = [getattr(other, "members", None) for other in formats.values() if other is not self._simple]
        self._members_of_others = None if None in members else frozenset[str]().union(*filter(None, members))
        """A line without any of these can only be simple; None where some format has to be asked about each line."""
        self._own_fields = frozenset(settings.own_fields)

    def take_columns(self, columns: Sequence[str], *, is_typed: bool) -> None:
        """Read rows of a table with these columns from now on; none for lines that have names of their own."""
        if self._column_taker is not None:
            self._column_taker.take_columns(columns, is_typed=is_typed)

    def format_of(self, fields: dict[str, object]) -> Format:
        """Return the format of a line with these fields. Raises BadLine for an unknown format."""
        if self._forced is not None:
            return self._forced
        if not self._own_fields.isdisjoint(fields):
            fields = without(self._own_fields, fields)
        of_others = self._members_of_others
        if of_others is not None and of_others.isdisjoint(fields) and self._simple.claims(fields):
            return self._simple
        for candidate in self._formats:
            if candidate.claims(fields):
                return candidate
        if path_of_body(fields) is not None:
            return self._raw
        if "custom_id" in fields and "params" in fields:
            raise BadLine('"params" must be an object with "messages": the request to send')
        for members, name in _FOREIGN.items():
            if members[0] in fields and type(fields.get(members[-1])) in (dict, list):
                raise BadLine(f"{name} lines are not supported: convert it to {_BATCH_LINE}")
        raise BadLine(_nothing_to_send(fields))


def _is_unheard_of(router: DialectRouter, candidate: Format) -> bool:
    """Return whether a format is for one dialect that no endpoint speaks: others are asked first, which saves time."""
    dialect = getattr(candidate, "dialect", None)
    return dialect is not None and not router.speaks(dialect)


def _nothing_to_send(fields: dict[str, object]) -> str:
    """Return the advice for a line of an unknown format, with the names of its fields."""
    names = ", ".join(name[:_SHOWN_CHARACTERS] for name in list(fields)[:_SHOWN_FIELDS])
    texts = [name for name, value in fields.items() if type(value) is str and name not in ("id", "custom_id")]
    if not texts:
        there = f". It has: {names}" if names else ""
        return f"nothing to send: {_POSSIBLE}{there}"
    longest = max(texts, key=lambda name: len(str(fields[name])))
    place = f"{{{longest}}}" if _NOT_IN_A_PLACE.isdisjoint(longest) else "{FIELD}"
    return f"nothing to send: the line has no \"input\". It has: {names}. Try --prompt '{place}'"
