"""Prompt template: a text with `{field}` placeholders for the fields of each line.

Only field names are allowed: attributes and indices of `str.format` would give access to Python objects.
"""

from collections.abc import Mapping
from string import Formatter

import orjson

from llmblast.errors import UsageError
from llmblast.reading.fields import BadLine

_HOWTO = "write fields as {text} and a literal brace as {{ or }}"


class Template:
    """A checked template. Raises UsageError with the error and the correct syntax."""

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
        """Return the prompt for one line, with values other than texts as JSON.

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
