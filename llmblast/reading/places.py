"""Places: name a value in a line: a field, or a value nested in one such as `a.b[0]`.

A field whose whole name is `a.b`, as columns of tables have, goes before the value `b` in the field `a`.
"""

import re
from collections.abc import Mapping
from typing import Final

from llmblast.reading.fields import BadLine, shown_names

HOWTO: Final = "write {field}, or {field.member[0]} for a value in it"
_NAME = r"[^\s.\[\]{}!:;\"](?:[^.\[\]{}!:;\"\n]*[^\s.\[\]{}!:;\"])?"
"""Names without characters that only code and JSON have, so that braces around these are no places."""
_PLACE = re.compile(rf"({_NAME})((?:\.{_NAME}|\[[^\[\]{{}}\n]+\])*)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\[\]]+)\]")
_INDEX = re.compile(r"-?\d{1,9}")


class Place:
    """A parsed place. Raises ValueError for a text that is none."""

    def __init__(self, text: str) -> None:
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(text)
        self.text = text
        self.field = found[1]
        """The name of the field that the place starts from, where no field has the whole text as its name."""
        self._steps = [step[1] or step[2].strip("'\"") for step in _STEP.finditer(found[2])]

    def value_in(self, fields: Mapping[str, object], user: str) -> object:
        """Return the value at this place of a line. `user` is the option that needs it.

        Raises BadLine where there is none, or null, with the names that are there.
        """
        value = fields.get(self.text)
        if value is not None:
            return value
        name, there = self.field, fields
        if not self._steps or self.text in fields or name not in fields:
            raise BadLine(_lack(self.text if not self._steps else name, self.text, there, user))
        value = fields[name]
        for step in self._steps:
            found = _inside(value, step)
            if found is None:
                raise BadLine(f'"{name}" {_lack_inside(value, step)}, which {user} names as {self.text}')
            name, value = f"{name}.{step}", found
        return value


def _inside(value: object, step: str) -> object:
    """Return a member of an object, or an item of a list; None where there is none."""
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and _INDEX.fullmatch(step) and -len(value) <= int(step) < len(value):
        return value[int(step)]
    return None


def _lack(name: str, text: str, fields: Mapping[str, object], user: str) -> str:
    named = f"which {user} names" if name == text else f"which {user} names as {text}"
    if text in fields or name in fields:
        return f'its field "{name}" is null, {named}'
    return f'it has no field "{name}", {named}: {shown_names(fields)}'


def _lack_inside(value: object, step: str) -> str:
    """Return what a value has instead of a member or an item."""
    if isinstance(value, Mapping):
        return f'has null as "{step}"' if step in value else f'has no "{step}": {shown_names(value)}'
    if isinstance(value, list):
        is_there = _INDEX.fullmatch(step) and -len(value) <= int(step) < len(value)
        return f"has null as [{step}]" if is_there else f"has no [{step}]: it is a list of {len(value)}"
    return f'has no "{step}": it is not an object'
