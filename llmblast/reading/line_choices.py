"""Line choices: the endpoint and the request headers that a line names for itself.

Both stand beside the request, in lines of every format, and are not sent in the body. Lines that are records of an
earlier run name the endpoint that answered then, which is no choice.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from llmblast.errors import UsageError
from llmblast.hiding import may_hold_key
from llmblast.models import Request
from llmblast.reading.fields import BadLine, without
from llmblast.reading.members import take_out
from llmblast.settings import Settings

ENDPOINT: Final = "endpoint"
HEADERS: Final = "headers"
_RECORD: Final = ("key", "attempts")
"""Members that all records of llmblast have, and no other line has together."""
_RESERVED: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


class Choices(NamedTuple):
    """A line without its choices, and these: the endpoints that it is closed to, and its headers."""

    fields: dict[str, object]
    text: bytes
    endpoint: str | None
    closed_to: int
    headers: Mapping[str, str] | None


class LineChoices:
    """Read the choices of lines. Raises UsageError for a header that no line may set."""

    def __init__(self, settings: Settings) -> None:
        self._names = frozenset((ENDPOINT, HEADERS)) - frozenset(settings.own_fields)
        self._endpoints = [endpoint.name for endpoint in settings.endpoints]
        self._all_bits = (1 << len(self._endpoints)) - 1
        self._allowed = frozenset(header.lower() for header in settings.line_headers)
        for header in settings.line_headers:
            if header.lower() in _RESERVED or may_hold_key(header) or not _TOKEN.fullmatch(header):
                raise UsageError(f"--line-headers: lines must not set the header {header!r}: leave it out")

    def read(self, text: bytes, fields: dict[str, object]) -> Choices | None:
        """Return the choices of a line that has `endpoint` or `headers`; None where it has none. Raises BadLine."""
        names = self._names.intersection(fields)
        if not names or is_record(fields):
            return None
        endpoint = fields.get(ENDPOINT) if ENDPOINT in names else None
        headers = fields.get(HEADERS) if HEADERS in names else None
        closed_to = 0 if endpoint is None else self._closed_to(endpoint)
        checked = None if headers is None else self._checked(headers)
        kept = without(names, fields)
        if not kept:
            raise BadLine('nothing to send: the line has no "input"')
        return Choices(kept, take_out(text, names)[0], str(endpoint), closed_to, checked)

    def apply(self, request: Request, choices: Choices, text: bytes) -> Request:
        """Return the request with the line's choices; `text` is the whole line. Raises BadLine."""
        closed_to = request.closed_to | choices.closed_to
        if choices.closed_to and closed_to == self._all_bits:
            raise BadLine(f'the endpoint "{choices.endpoint}" has another API, which cannot take this line')
        return replace(request, text=text, closed_to=closed_to, headers=choices.headers)

    def _closed_to(self, endpoint: object) -> int:
        if not self._endpoints:
            return 0
        if endpoint not in self._endpoints:
            known = ", ".join(self._endpoints)
            shown = f'"{endpoint}"' if type(endpoint) is str else "this value"
            raise BadLine(
                f'"endpoint": {shown} names no endpoint: write one of {known}, or keep the field with '
                "--own-fields endpoint"
            )
        return self._all_bits & ~(1 << self._endpoints.index(str(endpoint)))

    def _checked(self, headers: object) -> Mapping[str, str]:
        if type(headers) is not dict:
            raise BadLine('"headers" must be an object such as {"X-Tag": "a"}, or keep it with --own-fields headers')
        for name, value in headers.items():
            if name.lower() not in self._allowed:
                raise BadLine(f'"headers": {name!r} is not allowed: allow it with --line-headers, or leave it out')
            if type(value) is not str or not (value.isascii() and value.isprintable()):
                raise BadLine(f'"headers": the value of {name!r} must be a string of printable ASCII characters')
        return headers or {}


def is_record(fields: Mapping[str, object]) -> bool:
    """Return whether a line is a record of an earlier run."""
    return all(name in fields for name in _RECORD)
