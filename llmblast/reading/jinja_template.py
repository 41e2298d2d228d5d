"""Jinja template: a text in Jinja's syntax, run by minijinja, which reaches no file and no Python object.

Undefined names are errors. Each line gets the same bounded amount of work, so that no loop runs for ever.
`fields` holds all fields of the line, for names with spaces: `{{ fields["First Name"] }}`.
"""

import json
import re
from collections.abc import Mapping

import orjson
from minijinja import Environment, TemplateError

from llmblast.errors import UsageError
from llmblast.reading.exact_numbers import with_exact_numbers
from llmblast.reading.fields import BadLine, shown_names

_NAME = "template"
_FIELDS = "fields"
_FUEL = 1_000_000
"""Instructions that one line may take: some 50 ms."""
_TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_WORD = re.compile(r"[^\W\d]\w*")
_STRING = re.compile(r"'[^']*'|\"[^\"]*\"")
_UNDEFINED = "UndefinedError"
_SHOWN_CHARACTERS = 80


class JinjaTemplate:
    """A compiled template. `place` is the option with the text, for errors. Raises UsageError for invalid syntax."""

    def __init__(self, text: str, place: str, option: str, *, needs_field: bool) -> None:
        self._text = text
        self._option = option
        self._environment = Environment(
            undefined_behavior="strict", debug=False, fuel=_FUEL, finalizer=self._write, keep_trailing_newline=True
        )
        try:
            self._environment.add_template(_NAME, text)
            self._names = self._environment.undeclared_variables_in_str(text)
        except TemplateError as error:
            line = f" in line {error.line}" if error.line and "\n" in text else ""
            raise UsageError(
                f"{place}: not a Jinja template: {error.detail or error.message}{line}: "
                "write fields as {{ text }}; without {{ and {% they are written as {text}"
            ) from None
        if needs_field and not any(_WORD.search(_STRING.sub("", tag)) for tag in _TAG.findall(text)):
            raise UsageError(f"{place}: it names no field: write {{{{ text }}}} where the text of a line goes")

    def render(self, text: bytes, fields: Mapping[str, object]) -> str:
        """See `Template`. Decimals have the precision of a float, integers all their digits."""
        known = fields if with_exact_numbers(text, fields) is fields else json.loads(text)
        try:
            return self._environment.render_template(_NAME, **{_FIELDS: known, **known})
        except TemplateError as error:
            raise BadLine(self._explain(error, fields)) from None

    def _write(self, value: object) -> object:
        """Return the text to write for a value."""
        if isinstance(value, str):
            return value
        if value is None:
            raise BadLine(f"a value that {self._option} writes is null: give another: {{{{ name or 'none' }}}}")
        try:
            return orjson.dumps(value, default=list).decode()
        except TypeError:  # an integer of more than 64 bits
            return json.dumps(value, default=list, ensure_ascii=False, separators=(",", ":"))

    def _explain(self, error: TemplateError, fields: Mapping[str, object]) -> str:
        tag = self._tag_at(error)
        shown = f"{tag[:_SHOWN_CHARACTERS]} in {self._option}" if tag else self._option
        if error.kind != _UNDEFINED:
            return f"{shown} cannot be filled: {error.detail or error.message.partition(' (in ')[0]}"
        missing = sorted(self._names.intersection(_WORD.findall(tag)) - fields.keys() - {_FIELDS})
        if missing:
            return f'it has no field "{missing[0]}", which {self._option} names: {shown_names(fields)}'
        return f"{shown} names a value that it does not have: {shown_names(fields)}"

    def _tag_at(self, error: TemplateError) -> str:
        """Return the tag of the template in which an error is."""
        if error.range is None:
            return ""
        at = len(self._text.encode()[: error.range[0]].decode(errors="replace"))
        return next((tag[0] for tag in _TAG.finditer(self._text) if tag.start() <= at < tag.end()), "")
