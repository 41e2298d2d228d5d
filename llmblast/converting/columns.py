"""Columns: the schema of a table, found in a first pass over all rows, and the cells of a row in it.

| values of a column | its type |
|---|---|
| true and false | bool |
| whole numbers of up to 64 bits | int |
| numbers | float; whole numbers among them only up to 2^53, which a float holds exactly |
| texts | text |
| anything else, or a mixture | JSON text |

The counts in `usage` are columns of their own, such as `usage.prompt_tokens`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from llmblast.converting.rows import Row
from llmblast.errors import UsageError

Kind = Literal["bool", "int", "float", "text", "json"]
ABSENT: Final = object()
"""The row has no such member, which is not the same as null."""
MAX_COLUMNS: Final = 1000
USAGE: Final = "usage"
_MAX_EXACT_INT: Final = 2**53
RESULT_COLUMNS: Final[Mapping[str, Kind | None]] = {
    "key": "text",
    "line": "int",
    "id": None,
    "input": None,
    "response": None,
    "finish_reason": "text",
    "usage.prompt_tokens": "int",
    "usage.completion_tokens": "int",
    "usage.total_tokens": "int",
    "model": "text",
    "endpoint": "text",
    "attempts": "int",
    "latency": "float",
    "maybe_billed": "int",
    "error": "text",
    "status": "int",
    "code": "text",
    "transient": "bool",
    "body": None,
    "request": None,
}
"""Columns that each table of results has, in this order; None where the type depends on the values. Other counts of
`usage` follow those here, own fields the last one.
"""
_LAST_COUNT: Final = f"{USAGE}.total_tokens"


@dataclass(slots=True)
class Column:
    """One column; `kind` is None before the first value."""

    name: str
    kind: Kind | None = None
    count: int = 0
    """Rows that have it, null included."""
    has_null: bool = False
    has_large_int: bool = False

    def add(self, value: Any) -> None:
        """Widen the type so that it holds a value."""
        self.count += 1
        if value is None:
            self.has_null = True
            return
        kind = _KINDS.get(type(value)) or _kind_of(value)
        if kind == "int" and abs(value) > _MAX_EXACT_INT:
            self.has_large_int = True
        if kind != self.kind:
            self.widen(kind)

    def widen(self, kind: Kind) -> None:
        """Widen the type so that it holds values of a type."""
        if self.kind is None or self.kind == kind:
            self.kind = kind
            return
        is_number = {self.kind, kind} == {"int", "float"} and not self.has_large_int
        self.kind = "float" if is_number else "json"


class Schema:
    """The columns of a table, in the order in which they were first seen."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}

    def add(self, row: Row) -> None:
        """Widen the schema so that it holds a row. Raises UsageError for too many columns."""
        for name, value in row.items():
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) >= MAX_COLUMNS:
                    raise UsageError(f"more than {MAX_COLUMNS:,} columns: choose some with --fields")
                column = self._columns[name] = Column(name)
            column.add(value)

    def columns(self, *, of_results: bool) -> list[Column]:
        """Return the columns; those that a table of results has first. One without values holds text."""
        if of_results:
            self._columns = {column.name: column for column in self._result_columns()}
        for column in self._columns.values():
            column.kind = column.kind or ("json" if column.has_null else "text")
        return list(self._columns.values())

    def _result_columns(self) -> Iterator[Column]:
        counts = [name for name in self._columns if name.startswith(f"{USAGE}.") and name not in RESULT_COLUMNS]
        for name, kind in RESULT_COLUMNS.items():
            column = self._columns.pop(name, Column(name))
            if kind is not None:
                column.widen(kind)
            yield column
            if name == _LAST_COUNT:
                yield from (self._columns.pop(count) for count in counts)
        yield from self._columns.values()


_KINDS: Final[Mapping[type, Kind]] = {bool: "bool", str: "text", float: "float"}


def _kind_of(value: Any) -> Kind:
    """Return the kind of a value that is not among `_KINDS`."""
    return "int" if isinstance(value, int) and -(2**63) <= value < 2**63 else "json"


def flatten(row: Row) -> Row:
    """Return a row whose `usage` is columns of its own, at the same place."""
    usage = row.get(USAGE)
    if not isinstance(usage, dict):
        return {name: value for name, value in row.items() if name != USAGE} if USAGE in row else row
    flat: Row = {}
    for name, value in row.items():
        if name == USAGE:
            flat.update({f"{USAGE}.{member}": count for member, count in usage.items()})
        else:
            flat[name] = value
    return flat


def is_flat(columns: Iterable[str]) -> bool:
    """Return whether a table has columns that `flatten` made."""
    return any(name.startswith(f"{USAGE}.") for name in columns)


def unflatten(row: Row) -> Row:
    """Undo `flatten`."""
    start = f"{USAGE}."
    if USAGE in row:
        return row
    nested: Row = {}
    for name, value in row.items():
        if name.startswith(start):
            nested.setdefault(USAGE, {})[name.removeprefix(start)] = value
        else:
            nested[name] = value
    return nested


class Selection:
    """The fields that `--fields` chooses: names, or paths such as `usage.prompt_tokens`."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields
        self._missing = set(fields)
        self._seen: dict[str, None] = {}

    def pick(self, row: Row) -> Row:
        """Return the chosen fields of a row; those that it does not have are null."""
        picked: Row = {}
        for field in self._fields:
            value = _find(row, field)
            if value is not ABSENT:
                self._missing.discard(field)
            picked[field] = None if value is ABSENT else value
        if self._missing and len(self._seen) < MAX_COLUMNS:
            self._seen.update(dict.fromkeys(row))
        return picked

    def check(self) -> None:
        """Raise UsageError for a field that no row has."""
        if self._missing:
            missing = ", ".join(field for field in self._fields if field in self._missing)
            raise UsageError(f"--fields {missing}: no row has it; there are: {', '.join(list(self._seen)[:40])}")


def _find(row: Row, path: str) -> Any:
    """Return a member by its name, else by its path through objects."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def cells_of(row: Row, columns: Iterable[Column]) -> list[Any]:
    """Return the cells of a row, ABSENT where it has no such member."""
    return [row.get(column.name, ABSENT) for column in columns]
