"""The file of `llmblast mock --faults`: one `[[fault]]` table for each rule, in TOML.

[[fault]]           # everything 500s from second 3 to 33
kind = "500"
from_s = 3
to_s = 33

[[fault]]           # of the rest, one in twenty is cut off by a TCP reset
kind = "reset"
share = 0.05

[[fault]]           # the first two sends of a line with this in it, and no others, hang for 5 s
kind = "black-hole"
containing = "row-17"
sends = 2
seconds = 5
"""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields

from llmblast.errors import UsageError
from llmblast.mocking.faults import FAULTS, Rule
from llmblast.mocking.settings import nearest


def read_rules(path: str) -> list[Rule]:
    """Raises UsageError, which names the place and the fix."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}: name an existing file with --faults") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    tables = document.pop("fault", None)
    if document:
        raise UsageError(f"{path}: {next(iter(document))}: unknown: write one [[fault]] table for each rule")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: has no rule: write one [[fault]] table for each")
    rules = [_rule(table, f"{path}: fault {index}") for index, table in enumerate(tables, 1)]
    of_all_requests = [table.get("share", 0) for table in tables if table.keys() <= {"kind", "share", "seconds"}]
    if sum(of_all_requests) > 1 + 1e-9:
        raise UsageError(f"{path}: share: all shares together must be at most 1")
    return rules


def _rule(table: Mapping[str, object], place: str) -> Rule:
    for name in table:
        if name not in _CHECKS:
            raise UsageError(f"{place}: {name}: unknown: {nearest(name, list(_CHECKS))}")
    if "kind" not in table:
        raise UsageError(f'{place}: kind: is missing: name a fault, such as kind = "500"')
    for name, value in table.items():
        is_right, wanted = _CHECKS[name]
        if not is_right(value):
            raise UsageError(f"{place}: {name} = {value!r}: write {wanted}")
    kind = str(table["kind"])
    if kind not in FAULTS:
        raise UsageError(f"{place}: kind = {kind!r}: unknown: {nearest(kind, list(FAULTS))}")
    values = {**table, "kind": kind}
    if "requests" in table:
        values["requests"] = tuple(table["requests"])  # type: ignore[arg-type]  # a list, as was checked
    return Rule(**values)  # type: ignore[arg-type]  # each value was checked


def _is_number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


_COUNT = (_is_count, "a whole number above 0")
_SECONDS = (_is_number(0, 1e9), "seconds, such as 2.5")
_CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "kind": (lambda value: _is_text(value) or _is_count(value), 'the name of a fault, such as "500"'),
    "share": (_is_number(0, 1), "a number from 0 to 1"),
    "even": (_is_flag, "true or false"),
    "requests": (_are_counts, "a list of whole numbers above 0, such as [1, 7]"),
    "every": _COUNT,
    "containing": (_is_text, "a text in the bodies of these requests"),
    "lacking": (_is_text, "a text that the bodies of these requests do not have"),
    "first_answers": (_is_flag, "true or false"),
    "sends": _COUNT,
    "from_s": _SECONDS,
    "to_s": (_is_number(0, math.inf), "seconds, such as 2.5"),
    "times": _COUNT,
    "seconds": _SECONDS,
}
assert set(_CHECKS) == {entry.name for entry in fields(Rule)}
