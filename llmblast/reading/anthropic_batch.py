"""The Anthropic batch format: `{"custom_id", "params"}`, answered in that API's result format.

Source of the format: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_numbers
from llmblast.reading.fields import BadLine, max_tokens_of, model_of, needs_model
from llmblast.reading.raw_dialects import MESSAGES
from llmblast.records import RawBody, Request
from llmblast.settings import Settings

_MEMBERS = frozenset({"custom_id", "params"})
_OF_OTHERS = frozenset({"input", "prompt", "body", "messages", "model"})


class AnthropicBatch:
    """Takes lines with `custom_id` and `params` that hold messages; all other members are the user's own."""

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._router = router
        self._own_fields = frozenset(settings.own_fields)

    def claims(self, fields: Mapping[str, object]) -> bool:
        params = fields.get("params")
        return type(params) is dict and "messages" in params and "custom_id" in fields and _OF_OTHERS.isdisjoint(fields)

    def parse(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Raises BadLine."""
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
        route = router.route_of(MESSAGES)
        extra: dict[str, object] = {}
        if len(fields) > len(_MEMBERS):
            beside = {name: value for name, value in fields.items() if name not in _MEMBERS}
            extra.update(with_exact_numbers(text, beside))
        if not self._own_fields.isdisjoint(params):
            extra.update({name: value for name, value in params.items() if name in self._own_fields})
            params = {name: value for name, value in params.items() if name not in self._own_fields}
        body = bytes(memoryview(orjson.dumps(params)))  # a copy, see `OpenAIBatch`
        request = Request(
            number,
            key,
            text,
            custom_id,
            orjson.Fragment(body),
            extra or None,
            path=route.path,
            body=body,
            kind=route.kind,
            needs_model=needs_model(params),
            model=model_of(params),
            max_tokens=max_tokens_of(params),
            output_format="anthropic-batch",
        )
        if router.is_mixed:
            request = replace(request, content=RawBody(MESSAGES), closed_to=route.closed_to)
        return request
