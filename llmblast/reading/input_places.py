"""Input places: name a place in an input as compilers do: `data.csv:17:5`, which editors and terminals open."""

from typing import Final

LINE: Final = "line"
"""Unit of files that have lines; others have rows or items."""


def input_place(name: str, unit: str, number: int, column: int | None = None) -> str:
    """Return a place in the input `name`: `data.csv:17` for a line, `data.parquet:row 17` for what has no lines.

    `column` counts characters from 1.
    """
    place = f"{name}:{number}" if unit == LINE else f"{name}:{unit} {number}"
    return place if column is None else f"{place}:{column}"
