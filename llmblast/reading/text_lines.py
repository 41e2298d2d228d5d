"""Text lines: each line of a plain text is a prompt."""

from collections.abc import Sequence
from typing import Final

from llmblast.reading.bad_row import bad_row
from llmblast.reading.fields import compact_json
from llmblast.reading.lines import LineSplitter
from llmblast.reading.oversized_line import OversizedLine


class TextLines:
    """Split blocks into lines, and make `{"input": "..."}` of each."""

    unit: Final = "line"
    is_typed: Final = True
    columns: Final = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self._splitter = LineSplitter()

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Return the prompts whose lines end in `block`."""
        return _prompts(self._splitter.feed(block))

    def finish(self) -> list[tuple[int, bytes]]:
        """Return the last line, if the file does not end with a line end."""
        return _prompts(self._splitter.finish())


def _prompts(lines: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(number, _prompt(text)) for number, text in lines]


def _prompt(text: bytes) -> bytes:
    if type(text) is OversizedLine:
        return text
    try:
        return compact_json({"input": text.decode()})
    except UnicodeDecodeError:
        return bad_row(text, "invalid UTF-8: save the file as UTF-8")
