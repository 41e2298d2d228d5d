"""Line prefixes: which lines of a run share the start of their prompts, by the setting `warm_prefix`."""

from functools import partial
from typing import Final

import orjson

from llmblast.models import Request
from llmblast.providers.prompt_starts import SYSTEM_BEHIND, front_of, tools_behind, with_system_first
from llmblast.scheduling import PrefixesByField, PrefixesByHash, PrefixFinder

OFF: Final = "off"
AUTO: Final = "auto"
_INNER: Final = ("body", "params")
"""Members of batch lines that hold the request."""


def make_prefix_finder(warm_prefix: str) -> PrefixFinder | None:
    """Return what finds shared prefixes; None where it is off."""
    if warm_prefix == OFF:
        return None
    if warm_prefix == AUTO:
        return PrefixesByHash(front_of, with_system_first, tools_behind, SYSTEM_BEHIND)
    return PrefixesByField(partial(value_in_line, warm_prefix))


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
