"""Line prefixes: which lines of a run share the start of their prompts, by the setting `warm_prefix`."""

from collections.abc import Callable
from typing import Final

import orjson

from llmblast.models import Request
from llmblast.providers.prompt_starts import SYSTEM_BEHIND, front_of, tools_behind, with_system_first
from llmblast.scheduling import PrefixesByField, PrefixesByHash, PrefixFinder

OFF: Final = "off"
AUTO: Final = "auto"
_INNER: Final = ("body", "params")
"""Members of batch lines that hold the request."""


MAX_WITHOUT: Final = 1000
"""Lines without the field, from the first one on, before a message says so while the run goes on."""


class FieldOfLines:
    """Return the value of one field in each line. Tell once if no line has this field."""

    def __init__(self, field: str, tell: Callable[[str], None]) -> None:
        self._field = field
        self._tell = tell
        self._without = 0
        self._is_settled = False
        """Some line has the field, or the message was told."""

    def __call__(self, request: Request) -> str | bytes | None:
        """See `value_in_line`."""
        value = value_in_line(self._field, request)
        if not self._is_settled:
            self._without += value is None
            self._is_settled = value is not None
            if self._without == MAX_WITHOUT:
                self.tell_missing(f"none of the first {MAX_WITHOUT:,} lines")
        return value

    def tell_missing(self, which: str = "no line") -> None:
        """Tell that no line has the field, if that is so and was not told before. Call it when all lines were read."""
        if self._without and not self._is_settled:
            self._is_settled = True
            self._tell(
                f"--warm-prefix {self._field}: {which} has a field of this name, so nothing is grouped: write a field "
                "of your lines, or leave the option out to group lines by their long starts"
            )


def make_prefix_finder(warm_prefix: str, field_of_lines: FieldOfLines) -> PrefixFinder | None:
    """Return what finds shared prefixes; None where it is off."""
    if warm_prefix == OFF:
        return None
    if warm_prefix == AUTO:
        return PrefixesByHash(front_of, with_system_first, tools_behind, SYSTEM_BEHIND)
    return PrefixesByField(field_of_lines)


def value_in_line(field: str, request: Request) -> str | bytes | None:
    """Return the value of a field in a line, or in the request of a batch line; None where it has none."""
    try:
        fields = orjson.loads(request.text)
    except orjson.JSONDecodeError:
        return None
    places = [fields, *(fields.get(name) for name in _INNER)] if type(fields) is dict else []
    for place in places:
        if type(place) is dict and (value := place.get(field)) is not None:
            return value if type(value) is str else orjson.dumps(value)
    return None
