"""The Anthropic batch format: `{"custom_id", "params"}`, answered in that API's result format.

Source of the format: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
"""

from typing import ClassVar

from llmblast.models import Request
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_numbers
from llmblast.reading.fields import BadLine, compact_json, move_own_fields, without
from llmblast.reading.raw_dialects import MESSAGES
from llmblast.settings import Settings

_MEMBERS = frozenset({"custom_id", "params"})
_OF_OTHERS = frozenset({"input", "prompt", "body", "messages", "model"})


class AnthropicBatch:
    """Format of lines with `custom_id`, and `params` with messages; all other members are the user's own fields."""

    members: ClassVar[frozenset[str]] = frozenset({"params"})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._router = router
        self._own_fields = frozenset(settings.own_fields)

    def claims(self, fields: dict[str, object]) -> bool:
        params = fields.get("params")
        return type(params) is dict and "messages" in params and "custom_id" in fields and _OF_OTHERS.isdisjoint(fields)

    def sends(self, name: str) -> bool:
        return False

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request in `params`. Raises BadLine."""
        custom_id, params, router = fields.get("custom_id"), fields.get("params"), self._router
        if type(custom_id) is not str:
            raise BadLine('an Anthropic batch line needs a "custom_id" that is a string')
        if type(params) is not dict or "messages" not in params:
            raise BadLine('"params" must be an object with "messages": the request to send')
        if not router.speaks(MESSAGES):
            raise BadLine(
                "Anthropic batch lines need an endpoint with kind=anthropic: add one with --url, or convert the line: "
                '{"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}'
            )
        extra: dict[str, object] = {}
        if len(fields) > len(_MEMBERS):
            extra.update(with_exact_numbers(text, without(_MEMBERS, fields)))
        params = move_own_fields(params, self._own_fields, extra)
        return router.raw_request(
            number,
            key,
            text,
            line_id=custom_id,
            extra=extra,
            dialect=MESSAGES,
            body=compact_json(params),
            members=params,
            output_format="anthropic-batch",
        )
