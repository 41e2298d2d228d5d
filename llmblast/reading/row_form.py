"""Row form: what a parser has to know of the rows of a file."""

from collections.abc import Sequence
from typing import Final, Protocol


class RowForm(Protocol):
    """Form of the rows of one file."""

    @property
    def name(self) -> str:
        """Name of the file, for messages."""

    @property
    def unit(self) -> str:
        """Unit of the row numbers, for messages: line, row or item."""

    @property
    def is_typed(self) -> bool:
        """Whether values have types; in CSV all are texts."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, once they are read; empty where each line has its own names."""


class JsonLines:
    """The form of the usual file: one JSON object a line."""

    unit: Final = "line"
    is_typed: Final = True
    columns: Final[Sequence[str]] = ()

    def __init__(self, name: str) -> None:
        self.name = name
