"""Conversion: read the rows of one file, write them in another form or kind of file.

Memory holds a batch of rows. A table needs its columns before its first row, so its input is read twice: first for the
schema, then for the rows; standard input is copied to a temporary file for that.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from llmblast.converting.atomic_file import check_free, open_atomic
from llmblast.converting.columns import Column, Schema, Selection, flatten
from llmblast.converting.file_kinds import FILE_KINDS, kind_of
from llmblast.converting.request_forms import REQUEST_FORMS, RequestForms
from llmblast.converting.result_forms import RESULT_FORMS, read_result
from llmblast.converting.rows import Row, bad_row, dump_row, plain
from llmblast.errors import InputMissingError, UsageError
from llmblast.models import Failure, UnsupportedError
from llmblast.settings import Settings

STDIN = "-"
FORMS = tuple(dict.fromkeys((*REQUEST_FORMS, *RESULT_FORMS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What to convert. `form` is one of FORMS, None for the form that the rows have; `from_kind` and `to_kind` name the
    kinds of the files where their endings do not.
    """

    input: str
    output: str
    form: str | None = None
    from_kind: str | None = None
    to_kind: str | None = None
    fields: Sequence[str] = ()
    settings: Settings


def convert(conversion: Conversion) -> int:
    """Convert a file, and return the number of rows. The output has its name only once it is complete.

    Raises UsageError, InputMissingError, InputDamagedError with the place of a bad row, OutputBlockedError,
    OutputFailedError.
    """
    run = _Run(conversion)
    check_free(conversion.output, overwrite=conversion.settings.overwrite)
    with contextlib.ExitStack() as stack:
        file = _open_input(conversion.input, stack, reads_twice=run.reads_twice)
        return run.convert(file)


class _Run:
    """One conversion."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._from = FILE_KINDS[from_kind := kind_of(conversion.input, conversion.from_kind, "--from")]
        self._to = FILE_KINDS[to_kind := kind_of(conversion.output, conversion.to_kind, "--to")]
        if conversion.form is None and from_kind == to_kind == "jsonl" and not conversion.fields:
            raise UsageError(f"both files are JSONL: name the form to convert to: --to {', '.join(FORMS)}")
        self.reads_twice = self._to.is_table or from_kind in ("parquet", "arrow")
        self._wants_records = self._to.is_table or bool(conversion.fields)
        self._requests = RequestForms(conversion.settings)
        self._selection = Selection(conversion.fields) if conversion.fields else None
        self._has_results = False
        self._start: int | None = None

    def convert(self, file: BinaryIO) -> int:
        """Convert all rows, and return their number."""
        columns = self._find_columns(file) if self._to.is_table else []
        conversion, count = self._conversion, 0
        with open_atomic(conversion.output, overwrite=conversion.settings.overwrite) as output:
            writer = self._to.make_writer(output, columns)
            for row in self._rows(file):
                writer.write(row)
                count += 1
            writer.close()
            if self._selection is not None and count:
                self._selection.check()
        return count

    def _find_columns(self, file: BinaryIO) -> list[Column]:
        """Return the columns of all rows, in a pass of their own."""
        schema = Schema()
        for row in self._rows(file):
            schema.add(row)
        return schema.columns(of_results=self._has_results and self._selection is None)

    def _rows(self, file: BinaryIO) -> Iterator[Row]:
        """Yield the rows as they are to be written."""
        if self._start is None:
            self._start = file.tell() if file.seekable() else -1
        if self._start >= 0:
            file.seek(self._start)
        name = "standard input" if self._conversion.input == STDIN else self._conversion.input
        with contextlib.closing(self._from.read(file, name)) as rows:
            for number, row in islice(rows, self._conversion.settings.limit):
                try:
                    converted = self._convert_row(number, row, name)
                except UnsupportedError as error:
                    raise bad_row(name, number, str(error)) from None
                if self._selection is not None:
                    converted = self._selection.pick(converted)
                elif self._to.is_table and self._has_results:
                    converted = flatten(converted)
                yield converted

    def _convert_row(self, number: int, row: Row, name: str) -> Row:
        form = self._conversion.form
        result = read_result(row)
        if result is None and form is None:
            return row
        if result is not None and (form in RESULT_FORMS or form is None):
            self._has_results = True
            wanted = form or ("llmblast" if self._wants_records else "")
            return RESULT_FORMS[wanted].write(result) if wanted else row
        if result is not None:
            row = _request_in(result.members)
        if form not in REQUEST_FORMS:
            raise UnsupportedError(f"a request, which has no form as a result: choose --to {', '.join(REQUEST_FORMS)}")
        request = self._requests.parse(number, dump_row(row))
        if isinstance(request, Failure):
            raise bad_row(name, number, request.error.partition(": ")[2])
        return plain(self._requests.write(form, request))


def _request_in(members: Row) -> Row:
    """Return the line that an error record keeps. Raises UnsupportedError."""
    request = members.get("request")
    if not isinstance(request, dict):
        raise UnsupportedError("a record without its request: only error records can become requests again")
    return request


def _open_input(path: str, stack: contextlib.ExitStack, *, reads_twice: bool) -> BinaryIO:
    """Open a file, or standard input; a pipe that is read twice is copied. Raises InputMissingError."""
    file: BinaryIO
    if path == STDIN:
        file = sys.stdin.buffer
    else:
        try:
            file = open(path, "rb")  # noqa: SIM115 -- the stack closes it
        except OSError as error:
            raise InputMissingError(f"{path}: cannot be opened: {error.strerror}") from None
        stack.callback(file.close)
    if not reads_twice or file.seekable():
        return file
    copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 -- the stack closes it
    stack.callback(copy.close)
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy
