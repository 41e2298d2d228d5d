"""The raw format: the line is a request body and is sent byte for byte.

Without a `model` of its own the endpoint's is put in front when it is sent: the line is a JSON object with at least one
member, so `{"model":"m",` followed by all that comes after its first brace is that object with a model.
"""

from collections.abc import Mapping

import orjson

from llmblast.reading.fields import API_PATH_OF, BadLine, max_tokens_of, model_of, needs_model, own_id
from llmblast.records import Request
from llmblast.settings import Settings


class Raw:
    """Takes lines with `model` or `messages`. A line's own `id` or `custom_id` is its id and is sent, too."""

    def __init__(self, settings: Settings) -> None:
        """No setting changes a raw line."""

    def claims(self, fields: Mapping[str, object]) -> bool:
        return "messages" in fields or "model" in fields

    def shape(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Raises BadLine."""
        path = next((path for member, path in API_PATH_OF.items() if member in fields), None)
        if path is None:
            raise BadLine('a raw request needs "messages", "input" or "prompt"')
        return Request(
            number,
            key,
            text,
            own_id(fields, number),
            orjson.Fragment(text),
            path=path,
            body=text,
            needs_model=needs_model(fields),
            model=model_of(fields),
            max_tokens=max_tokens_of(fields),
        )
