"""Body templates: JSON in settings in which placeholders stand for the parts of a prompt.

| in a template | becomes |
|---|---|
| a text that is one placeholder, `"{prompt}"` | the value, with its type; where there is none, the member is left out |
| a text with placeholders, `"Q: {prompt}"` | the text, with values that are no texts as JSON |
| `{{` and `}}` | `{` and `}` |
| a member `"*" = "{params}"` | the members of the object, beside the others |
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

import orjson

_PLACE: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.-]*)\}", re.ASCII)
_SPREAD: Final = "*"
_PARAMS: Final = "params"
_OF_PARAMS: Final = "params."
_NAMES: Final = ("prompt", "system", "model", "images", _PARAMS)


class BodyTemplate:
    """A checked template. Raises ValueError with the error and the correct syntax.

    `names` are the placeholders in it, `params` the parameters that have a place; None: all have.
    """

    def __init__(self, body: Mapping[str, object]) -> None:
        self._body = body
        self.names: set[str] = set()
        self._check(body)
        if "prompt" not in self.names:
            raise ValueError('it has no "{prompt}": write that where the text of a line goes')
        self._named = {name.removeprefix(_OF_PARAMS) for name in self.names if name.startswith(_OF_PARAMS)}
        self.params: Collection[str] | None = None if _PARAMS in self.names else self._named
        orjson.dumps(self.fill(dict.fromkeys(_NAMES[:3], "")))

    def fill(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return the body for these values, by the names of the placeholders; None counts as left out."""
        params = values.get(_PARAMS)
        params = params if isinstance(params, Mapping) else {}
        others = {name: value for name, value in params.items() if name not in self._named}
        found = {f"{_OF_PARAMS}{name}": params.get(name) for name in self._named}
        filled = _fill(self._body, {**values, **found, _PARAMS: others or None})
        return filled if isinstance(filled, dict) else {}

    def _check(self, value: object) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if name == _SPREAD and inner != "{params}":
                    raise ValueError('a member "*" stands for the parameters: write "*" = "{params}"')
                self._check(inner)
        elif isinstance(value, list):
            for inner in value:
                self._check(inner)
        elif isinstance(value, str):
            for place in _PLACE.finditer(value):
                if place[1] is not None:
                    self._add(place[1])

    def _add(self, name: str) -> None:
        if name not in _NAMES and not (name.startswith(_OF_PARAMS) and name != _OF_PARAMS):
            known = ", ".join(f"{{{name}}}" for name in _NAMES)
            raise ValueError(f"{{{name}}} is unknown: write {known} or {{params.NAME}}, and a literal brace as {{{{")
        self.names.add(name)


def _fill(value: object, values: Mapping[str, object]) -> object:
    """Return the value with its placeholders filled in; None where it is one for which there is no value."""
    if isinstance(value, str):
        whole = _PLACE.fullmatch(value)
        if whole is not None and whole[1] is not None:
            return values.get(whole[1])
        return _PLACE.sub(lambda place: _text_at(place, values), value)
    if isinstance(value, Mapping):
        members: dict[str, object] = {}
        for name, inner in value.items():
            filled = _fill(inner, values)
            if name == _SPREAD:
                members.update(filled if isinstance(filled, dict) else {})
            elif filled is not None:
                members[name] = filled
        return members
    if isinstance(value, list):
        return [filled for inner in value if (filled := _fill(inner, values)) is not None]
    return value


def _text_at(place: re.Match[str], values: Mapping[str, object]) -> str:
    if place[1] is None:
        return place[0][0]
    value = values.get(place[1])
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
