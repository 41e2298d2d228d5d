"""Reading: turn bytes into lines, and lines into Requests; know which lines earlier runs have completed.

1. `open_sources` opens the inputs one after another; `Source.blocks` yields the bytes of one, decompressed.
2. `RowReader` makes numbered lines of the blocks, whatever the format of the file; `LineSplitter` does of JSON lines.
3. `key_of` hashes a line; `CompletedKeys.consume` says whether an earlier run has a record with that key.
4. `RequestParser.parse` returns the Request that a line asks for, or a Failure that says what is wrong with the line.

A new format is one class in one file plus one line in `formats.FORMATS`, and one word in the setting `format` if users
may force it. A new format of files is one class in one file plus one line in `splitters`, with its endings and
first bytes in `file_formats`.
`DialectRouter.raw_request` makes the request of a format whose lines contain a body.
"""

from llmblast.reading.completed_keys import CompletedKeys, key_of_repeat
from llmblast.reading.lines import LineSplitter, key_of
from llmblast.reading.oversized_line import OversizedLine
from llmblast.reading.request_parser import RequestParser
from llmblast.reading.row_form import RowForm
from llmblast.reading.row_reader import RowReader
from llmblast.reading.source import Source
from llmblast.reading.sources import Sources, open_source, open_sources

__all__ = [
    "CompletedKeys",
    "LineSplitter",
    "OversizedLine",
    "RequestParser",
    "RowForm",
    "RowReader",
    "Source",
    "Sources",
    "key_of",
    "key_of_repeat",
    "open_source",
    "open_sources",
]
