"""Conversion: read the rows of inputs, write them to one file in another form or kind of file.

Memory holds a batch of rows. A table needs its columns before its first row, so its inputs are read twice: first for
the schema, then for the rows.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from os.path import splitext
from typing import NamedTuple

from llmblast.converting.atomic_file import check_free, open_atomic
from llmblast.converting.bad_rows import BadRows
from llmblast.converting.columns import Column, Schema, Selection, flatten, is_flat, unflatten
from llmblast.converting.csv_file import values_of_cells
from llmblast.converting.file_kinds import FILE_KINDS, kind_of
from llmblast.converting.inputs import Block, Inputs
from llmblast.converting.request_forms import REQUEST_FORMS, RequestForms
from llmblast.converting.result_forms import RESULT_FORMS, read_result
from llmblast.converting.rows import Row, dump_row, load_row, plain
from llmblast.errors import UsageError
from llmblast.models import Failure, Line
from llmblast.provider_contract import UnsupportedError
from llmblast.reading import RowForm, key_of
from llmblast.reading.bad_row import BadRow
from llmblast.reading.fields import BadLine
from llmblast.reading.file_formats import forced_format
from llmblast.reading.input_places import input_place
from llmblast.reading.request_parser import BAD_LINE
from llmblast.settings import Settings

FORMS = tuple(dict.fromkeys((*REQUEST_FORMS, *RESULT_FORMS)))
_JSONL_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Rows to convert, and their forms. `inputs` are files, patterns, URLs or `-`. `form` is one of FORMS, None for the
    form that the rows have; `from_kind` and `to_kind` name the kinds of the files where their names and contents do
    not.
    """

    inputs: Sequence[str]
    output: str
    form: str | None = None
    from_kind: str | None = None
    to_kind: str | None = None
    fields: Sequence[str] = ()
    settings: Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rows that were written, and bad ones, which are records in the file `errors`. `notes` are for a person."""

    rows: int
    bad_rows: int
    errors: str
    notes: Sequence[str] = field(default=())


def convert(conversion: Conversion) -> Outcome:
    """Convert files. The output has its name only once it is complete.

    Raises UsageError, InputMissingError, InputDamagedError where an input breaks off or all rows are bad,
    OutputBlockedError, OutputFailedError.
    """
    run = _Run(conversion)
    check_free(conversion.output, overwrite=conversion.settings.overwrite)
    return asyncio.run(run.convert())


class _Run:
    """One conversion."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._to = FILE_KINDS[to_kind := kind_of(conversion.output, conversion.to_kind, "--to")]
        is_copy = conversion.form is None and to_kind == "jsonl" and not conversion.fields
        if is_copy and len(conversion.inputs) == 1 and splitext(conversion.inputs[0])[1].lower() in _JSONL_ENDINGS:
            raise UsageError(f"both files are JSONL: name the form to convert to: --to {', '.join(FORMS)}")
        self._wants_records = self._to.is_table or bool(conversion.fields)
        self._rows_parser = _RowParser(conversion, wants_records=self._wants_records)
        self._inputs = Inputs(conversion.inputs, conversion.from_kind or forced_format(conversion.settings.format))
        self._selection = Selection(conversion.fields) if conversion.fields else None

    async def convert(self) -> Outcome:
        """Convert all rows."""
        try:
            await self._inputs.open(reads_twice=self._to.is_table)
            self._rows_parser.names_files = self._inputs.are_several
            columns = await self._find_columns() if self._to.is_table else []
            return await self._write(columns)
        finally:
            await self._inputs.close()

    async def _write(self, columns: list[Column]) -> Outcome:
        conversion, count = self._conversion, 0
        overwrite = conversion.settings.overwrite
        with (
            open_atomic(conversion.output, overwrite=overwrite) as output,
            BadRows(conversion.output, conversion.settings) as bad_rows,
        ):
            writer = self._to.make_writer(output, columns)
            async for rows in self._rows(bad_rows):
                for row in rows:
                    writer.write(row)
                count += len(rows)
            bad_rows.check_any_good(count)
            writer.close()
            if self._selection is not None and count:
                self._selection.check()
        return Outcome(count, bad_rows.count, bad_rows.path, list(self._inputs.notes))

    async def _find_columns(self) -> list[Column]:
        """Return the columns of all rows, in a pass of their own."""
        schema = Schema()
        async for rows in self._rows(None):
            for row in rows:
                schema.add(row)
        return schema.columns(of_results=self._rows_parser.has_results and self._selection is None)

    async def _rows(self, bad_rows: BadRows | None) -> AsyncIterator[list[Row]]:
        """Yield the rows as they are to be written, block by block; record bad ones."""
        left = self._conversion.settings.limit
        async with contextlib.aclosing(self._inputs.blocks()) as blocks:
            async for block in blocks:
                lines = block.lines if left is None else block.lines[:left]
                parsed = self._rows_parser.parse(Block(block.form, lines))
                if bad_rows is not None:
                    for failure in parsed.bad:
                        bad_rows.add(failure)
                yield [self._shaped(row) for row in parsed.rows]
                if left is not None:
                    left -= len(lines)
                    if not left:
                        return

    def _shaped(self, row: Row) -> Row:
        """Return a row as the kind of the output needs it."""
        if self._selection is not None:
            return self._selection.pick(row)
        return flatten(row) if self._to.is_table and self._rows_parser.has_results else row


class _Parsed(NamedTuple):
    rows: list[Row]
    bad: list[Failure]


class _RowParser:
    """Make rows in the form that is wanted of the lines of inputs."""

    def __init__(self, conversion: Conversion, *, wants_records: bool) -> None:
        self._form = conversion.form
        self._wants_records = wants_records
        self._requests = RequestForms(conversion.settings)
        self.names_files = False
        """Error records name the file."""
        self.has_results = False

    def parse(self, block: Block) -> _Parsed:
        """Return the rows of these lines; bad ones as failures."""
        parsed = _Parsed([], [])
        form, name = block.form, block.form.name
        load = partial(self._load, is_typed=form.is_typed, has_flat_columns=is_flat(form.columns))
        for number, text in block.lines:
            try:
                parsed.rows.append(self._convert(number, load(text), form))
            except (BadLine, UnsupportedError) as error:
                column = error.column if isinstance(error, BadLine) and type(text) is not BadRow else None
                line = Line(number, key_of(text), bytes(text), number, file=name if self.names_files else None)
                failure = Failure(line, f"{input_place(name, form.unit, number, column)}: {error}", BAD_LINE)
                parsed.bad.append(failure)
        return parsed

    def _load(self, text: bytes, *, is_typed: bool, has_flat_columns: bool) -> Row:
        """Return the row of a line. Raises BadLine."""
        if type(text) is BadRow:
            raise BadLine(text.reason)
        row = load_row(text)
        if not is_typed:
            row = values_of_cells(row)
        return unflatten(row) if has_flat_columns else row

    def _convert(self, number: int, row: Row, file_form: RowForm) -> Row:
        """Return a row in the form that is wanted. Raises BadLine and UnsupportedError."""
        form, result = self._form, read_result(row)
        if result is None and form is None:
            return row
        if result is not None and (form in RESULT_FORMS or form is None):
            self.has_results = True
            wanted = form or ("llmblast" if self._wants_records else "")
            return RESULT_FORMS[wanted].write(result) if wanted else row
        if result is not None:
            row = _request_in(result.members)
        if form not in REQUEST_FORMS:
            raise UnsupportedError(f"a request, which has no form as a result: choose --to {', '.join(REQUEST_FORMS)}")
        request = self._requests.parse(number, dump_row(row), file_form)
        if isinstance(request, Failure):
            raise BadLine(request.error.partition(": ")[2])
        return plain(self._requests.write(form, request))


def _request_in(members: Row) -> Row:
    """Return the line that an error record keeps. Raises UnsupportedError."""
    request = members.get("request")
    if not isinstance(request, dict):
        raise UnsupportedError("a record without its request: only error records can become requests again")
    return request
