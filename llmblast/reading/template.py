"""Template: make a text from the fields of each line. It is compiled once.

| the text has | it is |
|---|---|
| `{%`, or `{{` before a name | Jinja, read by `jinja_template`: single braces are literal |
| `{field}` or `{field.member[0]}` | plain: `{{` and `}}` are literal braces |
| `{{` and no plain place | Jinja: an expression such as `{{ "a" ~ b }}` |

Values other than texts are written as JSON in both. Null makes the line bad, as a missing field does: a prompt about
the word null would be paid for.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

import orjson

from llmblast.errors import UsageError
from llmblast.reading.exact_numbers import with_exact_numbers
from llmblast.reading.places import Place

_HOWTO: Final = (
    "write fields as {text} or {a.b[0]}, and a literal brace as {{ or }}; or write fields as {{ text }}, "
    "where single braces, as in JSON, are literal"
)
_JINJA: Final = re.compile(r"\{%|(?<!\{)\{\{-?\s*[A-Za-z_]")
_BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SHOWN_CHARACTERS: Final = 60


class Template(Protocol):
    """A compiled template."""

    def render(self, text: bytes, fields: Mapping[str, object]) -> str:
        """Return the text for the line `text` with these fields. Raises BadLine for a missing one."""


def compile_prompt(text: str, option: str) -> Template:
    """Return the template of user messages; `option` is where it comes from. Raises UsageError."""
    _check_encoding(text, option)
    if _is_jinja(text):
        return _compile_jinja(text, option, needs_field=True)
    try:
        template = PlainTemplate(text, option)
    except ValueError as error:
        raise UsageError(f"{option} {_shown(text)}: {error}: {_HOWTO}") from None
    if not template.has_places:
        raise UsageError(f"{option} {_shown(text)}: it names no field: write {{text}} where the text of a line goes")
    return template


def compile_system(text: str, option: str) -> Template | None:
    """Return the template of system messages, None where all lines share one.

    Braces that hold no place, as in a text that shows JSON or code, are literal: the text is sent as it is.
    """
    if "{" not in text:
        return None
    _check_encoding(text, option)
    if _is_jinja(text):
        return _compile_jinja(text, option, needs_field=False)
    try:
        template = PlainTemplate(text, option)
    except ValueError:
        return None
    return template if template.has_places else None


class PlainTemplate:
    """A text with `{field}` places. Raises ValueError with the error in it."""

    def __init__(self, text: str, option: str) -> None:
        self._option = option
        self._parts: list[tuple[str, str, Place]] = []
        """A literal, then the place behind it, with its text for the usual field."""
        literal, at = "", 0
        for found in _BRACES.finditer(text):
            literal += text[at : found.start()]
            at = found.end()
            if found[0] in ("{{", "}}"):
                literal += found[0][0]
            elif found[1] is None:
                raise ValueError(f"a single {found[0]!r}")
            else:
                self._parts.append((literal, found[1], _place(found[1])))
                literal = ""
        self._end = literal + text[at:]
        self.has_places = bool(self._parts)

    def render(self, text: bytes, fields: Mapping[str, object]) -> str:
        """See `Template`."""
        exact = with_exact_numbers(text, fields)
        pieces = []
        for literal, name, place in self._parts:
            value = exact.get(name)
            if value is None:
                value = place.value_in(exact, self._option)
            pieces.append(literal)
            pieces.append(value if type(value) is str else orjson.dumps(value).decode())
        pieces.append(self._end)
        return "".join(pieces)


def _place(text: str) -> Place:
    try:
        return Place(text)
    except ValueError:
        raise ValueError(f"{{{text[:_SHOWN_CHARACTERS]}}} names no field") from None


def _is_jinja(text: str) -> bool:
    if _JINJA.search(text):
        return True
    if "{{" not in text:
        return False
    try:
        return not PlainTemplate(text, "").has_places
    except ValueError:
        return True


def _compile_jinja(text: str, option: str, *, needs_field: bool) -> Template:
    try:
        from llmblast.reading.jinja_template import JinjaTemplate  # noqa: PLC0415 -- needs an extra
    except ImportError:
        raise UsageError(
            f"{option}: templates with {{{{ }}}} or {{% %}} need the package minijinja: "
            "pip install 'llmblast[templates]', or write fields as {text}"
        ) from None
    return JinjaTemplate(text, f"{option} {_shown(text)}", option, needs_field=needs_field)


def _check_encoding(text: str, option: str) -> None:
    try:
        orjson.dumps(text)
    except orjson.JSONEncodeError:
        raise UsageError(f"{option}: invalid UTF-8: write it in UTF-8") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")
