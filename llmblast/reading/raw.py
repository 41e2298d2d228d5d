"""The raw format: a line is a request body, which is sent byte for byte, without the user's own fields.

Where a body has no `model`, the transport inserts the endpoint's model: since a line is a JSON object with at least one
member, `{"model":"m",` and the bytes behind the first brace are the same object with a model.
"""

from collections.abc import Sequence
from typing import ClassVar

import orjson

from llmblast.models import Request
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.fields import BadLine, own_id, without
from llmblast.reading.line_choices import is_record
from llmblast.reading.members import take_out, take_out_id
from llmblast.reading.paths import DIALECTS, PathFinder, path_of_body
from llmblast.reading.raw_dialects import CHAT, MESSAGES, dialect_of
from llmblast.reading.terms import NEVER_SENT
from llmblast.settings import Settings

_IDS = frozenset({"id", "custom_id"})
_SENT_TEXTS = frozenset({"model", "messages", "input", "prompt", "system"})
SENT_COLUMNS = _SENT_TEXTS.union(
    ("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "n", "seed", "stop"),
    ("stop_sequences", "tools", "tool_choice", "response_format", "frequency_penalty", "presence_penalty"),
    ("reasoning_effort", "logprobs", "top_logprobs", "stream"),
)
"""Columns of a table that are members of a request; all others are the user's own. In CSV, all values are texts."""


class Raw:
    """Format of lines with `model` or `messages`.

    `id` and `custom_id` identify the line and are not sent, since many providers reject requests with them; nor are
    `deadline` and `tenant`, which are ours, and the fields that the setting `own_fields` names.
    """

    members: ClassVar[frozenset[str]] = frozenset({"messages", "model"})

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        self._paths = PathFinder(settings)
        self._router = router
        self._speaks_messages = router.speaks(MESSAGES)
        self._default_dialect = CHAT if router.speaks(CHAT) else MESSAGES
        self._named_fields = self._own_fields = _IDS.union(NEVER_SENT, settings.own_fields)
        self._has_template = settings.prompt is not None
        self._is_table = False

    def take_columns(self, columns: Sequence[str], *, is_typed: bool) -> None:
        """Parse rows of a table with these columns from now on; none for lines that have names of their own."""
        self._is_table = bool(columns)
        sent = SENT_COLUMNS if is_typed else _SENT_TEXTS
        self._own_fields = self._named_fields.union(name for name in columns if name not in sent)

    def claims(self, fields: dict[str, object]) -> bool:
        """See `Format`. With a prompt template, a model alone makes no raw request, nor does a record.

        Null counts as left out. In a table, a model beside a prompt is that of a simple line, unless the URL of an
        endpoint names another API.
        """
        if fields.get("messages") is not None:
            return True
        if fields.get("model") is None or (self._is_table and self._paths.named_for(fields) is None):
            return False
        return not (self._has_template and (is_record(fields) or path_of_body(fields) is None))

    def sends(self, name: str) -> bool:
        return name not in self._own_fields

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request that sends the line. Raises BadLine."""
        line_id, body = own_id(fields, number), text
        extra: dict[str, orjson.Fragment] = {}
        if not self._own_fields.isdisjoint(fields):
            body, extra = self._split(text, fields)
            fields = without(self._own_fields, fields)
        path = self._paths.find(fields)
        if path is None:
            raise BadLine('a raw request needs "messages", "input" or "prompt"')
        dialect = DIALECTS[path]
        if self._speaks_messages and dialect == CHAT:
            dialect = dialect_of(fields, self._default_dialect)
        return self._router.raw_request(
            number, key, text, line_id=line_id, extra=extra, dialect=dialect, body=body, members=fields
        )

    def _split(self, text: bytes, fields: dict[str, object]) -> tuple[bytes, dict[str, orjson.Fragment]]:
        """Return the body to send, and the user's own fields other than ids."""
        own = self._own_fields.intersection(fields)
        if len(own) == 1 and own <= _IDS and (body := take_out_id(text, *own)) is not None:
            return body, {}
        body, taken = take_out(text, own)
        return body, {name: value for name, value in taken.items() if name not in _IDS}
