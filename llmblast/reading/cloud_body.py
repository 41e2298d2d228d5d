"""Bodies of APIs whose URLs name the model: what their formats have in common."""

from collections.abc import Mapping
from typing import NamedTuple

from llmblast.models import Request
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_integers, with_exact_numbers
from llmblast.reading.fields import BadLine, compact_json, move_own_fields, own_id, without
from llmblast.reading.members import take_out
from llmblast.reading.terms import NEVER_SENT
from llmblast.settings import Settings

_IDS = frozenset({"id", "custom_id"})


class _Line(NamedTuple):
    number: int
    key: str
    text: bytes
    line_id: str | int
    extra: Mapping[str, object]


class CloudBodies:
    """Make requests of bodies in one dialect. `model_name` is the member in which clients name the model.

    `limit` names the object and the member with the maximum of answer tokens.
    """

    def __init__(
        self, settings: Settings, router: DialectRouter, dialect: str, model_name: str, limit: tuple[str, str]
    ) -> None:
        self._router = router
        self._dialect = dialect
        self._model_name = model_name
        self._limit = limit
        self._own_fields = frozenset(settings.own_fields)
        self._never_sent = self._own_fields | _IDS | NEVER_SENT

    def sends(self, name: str) -> bool:
        """Return whether a member of a line that is a body is sent."""
        return name not in self._never_sent

    def raw(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request for a line that is a body, without ids and the user's own fields. Raises BadLine."""
        taken_out = self._never_sent.intersection(fields)
        body, extra = text, {}
        if taken_out:
            body, taken = take_out(text, taken_out)
            extra = {name: value for name, value in taken.items() if name not in _IDS}
        line = _Line(number, key, text, own_id(fields, number), extra)
        return self._request(line, body, without(taken_out, fields))

    def wrapped(
        self, number: int, key: str, text: bytes, fields: dict[str, object], *, id_name: str, body_name: str
    ) -> Request:
        """Return the request for a line with a body and a name in two members. Raises BadLine."""
        line_id = fields.get(id_name)
        if line_id is None:
            line_id = number
        if type(line_id) is not str and type(line_id) is not int:
            raise BadLine(f'"{id_name}" must be a string or an integer of at most 64 bits')
        body = fields.get(body_name)
        if type(body) is not dict:
            raise BadLine(f'"{body_name}" must be an object: the request to send')
        body = with_exact_integers(text, body_name, body)
        extra: dict[str, object] = {}
        own = without((id_name, body_name), fields)
        if own:
            extra.update(with_exact_numbers(text, own))
        body = move_own_fields(body, self._own_fields, extra)
        return self._request(_Line(number, key, text, line_id, extra), compact_json(body), body)

    def _request(self, line: _Line, body: bytes, fields: dict[str, object]) -> Request:
        members = dict(fields)
        if self._model_name != "model" and self._model_name in fields:
            body = take_out(body, (self._model_name,))[0]
            members["model"] = fields[self._model_name]
        config = next((fields[name] for name in _spellings(self._limit[0]) if name in fields), None)
        if type(config) is dict:
            names = _spellings(self._limit[1])
            members["max_tokens"] = next((config[name] for name in names if name in config), None)
        return self._router.raw_request(
            line.number,
            line.key,
            line.text,
            line_id=line.line_id,
            extra=line.extra,
            dialect=self._dialect,
            body=body,
            members=members,
        )


def _spellings(name: str) -> tuple[str, str]:
    """Return a name in camel case and in snake case: Google's JSON has both."""
    return name, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
