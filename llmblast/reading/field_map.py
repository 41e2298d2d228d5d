"""Field map: give the fields of a line the names that formats read, such as `input=question,id=row`.

The line is renamed as text as well, since raw requests are sent byte for byte and long numbers keep their digits.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from llmblast.errors import UsageError
from llmblast.reading.exact_numbers import with_exact_numbers
from llmblast.reading.fields import without
from llmblast.reading.members import take_out
from llmblast.reading.places import HOWTO, Place

_OPTION = "--map"
_PLAIN_NAME = re.compile(r"\w+", re.ASCII)
_ESCAPED = b"\\u"
"""A name may be written with escapes only in a line with one."""


class Renamed(NamedTuple):
    """A line with other names. `displaced` are fields of the user whose names are needed: records keep them."""

    text: bytes
    fields: dict[str, object]
    displaced: Mapping[str, object]


class FieldMap:
    """Names of fields by what they are to be called. Raises UsageError for an invalid one."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._places: dict[str, Place] = {}
        for target, source in names.items():
            try:
                self._places[target] = Place(source)
            except ValueError:
                raise UsageError(f"{_OPTION} {target}={source}: not the name of a field: {HOWTO}") from None
        sources = list(names.values())
        self._is_plain = len(set(sources)) == len(sources) and all(
            _PLAIN_NAME.fullmatch(name) for name in (*names, *sources)
        )
        self._as_text = [(target, f'"{target}"'.encode(), f'"{source}"'.encode()) for target, source in names.items()]

    def rename(self, text: bytes, fields: dict[str, object]) -> Renamed:
        """Return the line with its fields renamed. Raises BadLine where it does not have one of them."""
        if self._is_plain and (renamed := self._rename_plain(text, fields)) is not None:
            return renamed
        exact = with_exact_numbers(text, fields)
        mapped = {target: _value(place, exact) for target, place in self._places.items()}
        moved = {place.text for place in self._places.values() if place.text in fields}
        rest, _ = take_out(text, moved | mapped.keys())
        members = orjson.dumps(mapped)
        new_text = members if rest == b"{}" else b"%b,%b" % (members[:-1], rest[1:])
        new_fields = {target: _value(place, fields) for target, place in self._places.items()}
        displaced = {name: exact[name] for name in mapped if name in fields and name not in moved}
        return Renamed(new_text, {**new_fields, **without(moved | mapped.keys(), fields)}, displaced)

    def _rename_plain(self, text: bytes, fields: dict[str, object]) -> Renamed | None:
        """Rename by a search for the names; None for a line in which they stand elsewhere, too."""
        if _ESCAPED in text:
            return None
        renamed = dict(fields)
        for (target, target_text, source_text), place in zip(self._as_text, self._places.values(), strict=True):
            if place.text not in renamed or target in renamed or text.count(source_text) != 1:
                return None
            text = text.replace(source_text, target_text)
            renamed[target] = renamed.pop(place.text)
        return Renamed(text, renamed, {})


def _value(place: Place, fields: Mapping[str, object]) -> object:
    """Return the value of a place; null in a field stays null. Raises BadLine where there is none."""
    return fields[place.text] if place.text in fields else place.value_in(fields, _OPTION)
