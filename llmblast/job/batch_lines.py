"""Batch lines: the two files of a batch on disk, written as its lines come, and read again by index.

`.lines` has one record for each line, with all that is needed to parse it once more, so that neither the input nor
memory is needed until the batch is collected. `.requests` is what is uploaded. Rows of tables come with the form of
their file, once.
"""

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import orjson

from llmblast.job.batch_journal import BatchEntry, BatchJournal
from llmblast.models import Failure, Line, Request, Terms
from llmblast.reading import RequestParser, RowForm
from llmblast.writing.rewriting import sync_directory_of
from llmblast.writing.side_file import open_side_file

RECORD_START = b'{"key":"'
HEAD_BYTES = len(RECORD_START) + 17
"""Bytes of a record up to the quote behind its key."""
_CUSTOM_ID_SEPARATOR = "-"
_PLAIN_TERMS = Terms(is_deferred=True)
"""Terms that most lines of batches have; their records say nothing of them."""


@dataclass(frozen=True, slots=True)
class SavedForm:
    """The form of the rows of a table; see `RowForm`."""

    name: str
    unit: str
    is_typed: bool
    columns: Sequence[str]


def custom_id_of(mark: str, index: int) -> str:
    """Return the id of a line of a batch."""
    return f"{mark}{_CUSTOM_ID_SEPARATOR}{index}"


def index_in(mark: str, custom_id: str) -> int | None:
    """Return the index of the line that an id of a batch is of; None for an id of another one."""
    start, separator, index = custom_id.rpartition(_CUSTOM_ID_SEPARATOR)
    return int(index) if separator and start == mark and index.isdecimal() and index.isascii() else None


class PackWriter:
    """Writes the two files of one batch. All methods may block; raises OSError."""

    def __init__(self, journal: BatchJournal, entry: BatchEntry) -> None:
        self.entry = entry
        self._folder = journal.folder
        self._lines = open_side_file(journal.lines_path(entry), "wb")
        self._requests = open_side_file(journal.requests_path(entry), "wb")
        self._form: SavedForm | None = None

    def add(self, request: Request, rendered: bytes, form: RowForm | None) -> None:
        """Add a line whose rendered request is to be uploaded."""
        if form is not None and form.columns:
            self._note_form(SavedForm(form.name, form.unit, form.is_typed, tuple(form.columns)))
        self._lines.write(_record_of(request))
        self._requests.write(rendered)
        self.entry.lines += 1
        self.entry.size_bytes += len(rendered)
        self.entry.deadline_s = min(self.entry.deadline_s, request.terms.deadline_s)

    def finish(self) -> None:
        """Make both files durable."""
        for file in (self._lines, self._requests):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        sync_directory_of(os.path.join(self._folder, ""))

    def _note_form(self, form: SavedForm) -> None:
        if form != self._form:
            self._form = form
            self._lines.write(orjson.dumps({"form": form}, option=orjson.OPT_APPEND_NEWLINE))


class LinesReader:
    """Reads the lines of a batch by index and makes requests of them. All methods may block; raises OSError."""

    def __init__(self, path: str, parser: RequestParser) -> None:
        self._file = open_side_file(path, "rb")
        self._parser = parser
        self._offsets = array("Q")
        self._forms: list[tuple[int, SavedForm]] = []
        """Each form with the index of the first row that has it."""
        self._present: SavedForm | None = None
        offset = 0
        for line in self._file:
            if line.startswith(RECORD_START):
                self._offsets.append(offset)
            else:
                self._forms.append((len(self._offsets), SavedForm(**orjson.loads(line)["form"])))
            offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def items(self, indexes: Sequence[int], batch: str) -> list[Request | Failure]:
        """Return what lines of the batch with this id ask for. One may not be a request any more, since a file that
        it names is gone, say.
        """
        return [self._item(index, batch) for index in indexes]

    def requests(self, indexes: Sequence[int], batch: str) -> list[Request]:
        """Return lines to which an answer may have come, whether they are still requests or not."""
        found: list[Request] = []
        for item in self.items(indexes, batch):
            request = item if isinstance(item, Request) else item.line
            assert isinstance(request, Request)
            found.append(request)
        return found

    def _item(self, index: int, batch: str) -> Request | Failure:
        self._file.seek(self._offsets[index])
        record = orjson.loads(self._file.readline())
        self._take_form(index)
        number, key, text = int(record["line"]), str(record["key"]), str(record["text"]).encode()
        item = self._parser.parse(number, key, text)
        request = item if isinstance(item, Request) else Request(number, key, text, item.line.id)
        terms = Terms(**{**record.get("terms", {}), "is_deferred": True})
        request = replace(request, batch=batch, terms=terms, file=record.get("file"))
        request.cache_keys = tuple(bytes.fromhex(digits) for digits in record.get("cache_keys", ()))
        return request if isinstance(item, Request) else replace(item, line=request)

    def _take_form(self, index: int) -> None:
        form = next((form for first, form in reversed(self._forms) if first <= index), None)
        if form is not None and form is not self._present:
            self._present = form
            self._parser.take_rows_of(form.name, form.unit, (), is_typed=form.is_typed)
            self._parser.take_rows_of(form.name, form.unit, tuple(form.columns), is_typed=form.is_typed)


def places_in(path: str) -> Iterator[tuple[bytes, int, str | None]]:
    """Yield key, number and file of each line of a batch, the key as the start of a record. Blocks; raises OSError."""
    with open_side_file(path, "rb") as file:
        for line in file:
            if line.startswith(RECORD_START):
                record = orjson.loads(line)
                yield line[:HEAD_BYTES], record["line"], record.get("file")


def copy_lines(path: str, first: int, target: str) -> None:
    """Write the lines of a batch from an index on to another file, with the forms of rows. Blocks; raises OSError."""
    form, index = b"", -1
    with open_side_file(path, "rb") as file, open_side_file(target, "wb") as copy:
        for line in file:
            index += line.startswith(RECORD_START)
            if not line.startswith(RECORD_START):
                form = line
            if index < first:
                continue
            if form:
                copy.write(form)
                form = b""
            if line.startswith(RECORD_START):
                copy.write(line)
        copy.flush()
        os.fsync(copy.fileno())
    sync_directory_of(target)


def lines_in(path: str, states: bytearray, wanted: int) -> Iterator[tuple[Line, Sequence[bytes]]]:
    """Yield the lines of a batch in this state, each with its keys in the cache. Blocks; raises OSError."""
    with open_side_file(path, "rb") as file:
        records = (line for line in file if line.startswith(RECORD_START))
        for text, state in zip(records, states, strict=False):
            if state == wanted:
                record = orjson.loads(text)
                number = int(record["line"])
                line = Line(number, str(record["key"]), b"", number, file=record.get("file"))
                yield line, [bytes.fromhex(digits) for digits in record.get("cache_keys", ())]


def _record_of(request: Request) -> bytes:
    record: dict[str, Any] = {"key": request.key, "line": request.number}
    if request.file is not None:
        record["file"] = request.file
    if request.cache_keys:
        record["cache_keys"] = [key.hex() for key in request.cache_keys]
    terms = request.terms
    names = [entry.name for entry in fields(Terms)]
    if own := {n: value for n in names if (value := getattr(terms, n)) != getattr(_PLAIN_TERMS, n)}:
        record["terms"] = own
    record["text"] = request.text.decode()
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
