"""The prompt template: text with `{field}` places that each line's fields fill.

Field names only. Attributes, indices, conversions and format specifications of `str.format` would let a template
reach into Python objects, and a line has nothing but JSON.
"""

from collections.abc import Mapping
from string import Formatter

import orjson

from llmblast.errors import UsageError
from llmblast.reading.fields import BadLine

_HOWTO = "write fields as {text} and a literal brace as {{ or }}"


class Template:
    """Checked once when it is made; UsageError says what is wrong and how to write it."""

    def __init__(self, text: str) -> None:
        try:
            orjson.dumps(text)
            parts = list(Formatter().parse(text))
        except orjson.JSONEncodeError:
            raise UsageError("--prompt: invalid UTF-8: write it in UTF-8") from None
        except ValueError as error:
            raise UsageError(f"--prompt {text!r}: {error}: {_HOWTO}") from None
        for _, name, spec, conversion in parts:
            if name is not None and (not name or spec or conversion or set(name) & set(".[]{}")):
                raise UsageError(f"--prompt {text!r}: {{{name}}} is not a plain field name: {_HOWTO}")
        self._parts = [(literal, name) for literal, name, _, _ in parts]
        if all(name is None for _, name in self._parts):
            raise UsageError(f"--prompt {text!r}: it names no field: write {{text}} where the text of a line goes")

    def render(self, fields: Mapping[str, object]) -> str:
        """The prompt for one line; a value that is no text stands there as JSON.

        Raises BadLine for a field that is missing or null.
        """
        pieces = []
        for literal, name in self._parts:
            pieces.append(literal)
            if name is None:
                continue
            value = fields.get(name)
            if value is None:
                lack = f'its field "{name}" is null' if name in fields else f'it has no field "{name}"'
                raise BadLine(f"{lack}, which --prompt names")
            pieces.append(value if type(value) is str else orjson.dumps(value).decode())
        return "".join(pieces)
