"""The keywords of the Python API, which type checkers read, have the types of the settings."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_type_hints

import pytest

from llmblast.option_types import Number, Path, RunOptions
from llmblast.setting_option import choices_of, options_of
from llmblast.setting_values import (
    DIRECTORY,
    FILE,
    JSON_FILE,
    JSON_OBJECT,
    NAME_MAP,
    NAMES,
    TEXT_OR_NUMBER,
    WEIGHT_MAP,
    Switch,
    kind_of,
)
from llmblast.setting_values import Number as NumberKind
from llmblast.settings import Settings

HINTS = get_type_hints(RunOptions)


@pytest.mark.parametrize("name", sorted(HINTS.keys() - {"config"}))
def test_a_keyword_has_the_type_of_its_field(name: str) -> None:
    """A number may be a text with a unit, a path any object that is one; None counts as not given."""
    entry, _ = options_of(Settings)[name]

    assert HINTS[name] == expected_hint(entry.type)


def expected_hint(annotation: object) -> object:
    kind, choices = kind_of(annotation), choices_of(annotation)
    hints: list[tuple[bool, object]] = [
        (bool(choices), Literal[choices] | None if choices else None),
        (isinstance(kind, NumberKind) or kind is TEXT_OR_NUMBER, Number),
        (kind in (FILE, DIRECTORY), Path),
        (isinstance(kind, Switch), bool | None),
        (kind is NAMES, Sequence[str] | None),
        (kind is NAME_MAP, Mapping[str, str] | None),
        (kind is WEIGHT_MAP, Mapping[str, float] | None),
        (kind is JSON_FILE, Path | Mapping[str, Any]),
        (kind is JSON_OBJECT, Mapping[str, Any] | None),
    ]
    return next((hint for is_that, hint in hints if is_that), str | None)
