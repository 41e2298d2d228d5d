"""Input reader: turn the bytes of all inputs into batches of requests and refused lines (steps 1 to 3 of the flow)."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from math import inf

from llmblast.errors import InputDamagedError, UsageError
from llmblast.job.batch_parser import Batch, BatchParser, Keep
from llmblast.job.record_keys import RECORD_START, RecordKeys
from llmblast.job.unused_settings import UnusedSettings
from llmblast.models import IMMEDIATE, Terms
from llmblast.moments import parse_moment
from llmblast.provider_contract import Provider
from llmblast.reading import CompletedKeys, RequestParser, RowForm, RowReader, Source, Sources
from llmblast.reading.input_places import LINE, input_place
from llmblast.reading.terms import LineTerms
from llmblast.settings import Settings
from llmblast.watching import Counters
from llmblast.writing import is_json

Lines = Sequence[tuple[int, bytes]]


def make_parser(
    settings: Settings, providers: Sequence[Provider], *, now_s: float | None = None, is_deferred: bool = False
) -> RequestParser:
    """Return the parser of the lines of one input. The settings have the schema itself, not the path of its file.

    Deadlines count from `now_s`, Unix seconds. With `is_deferred`, lines that say nothing of it may wait.
    """
    now_s = time.time() if now_s is None else now_s
    deadline_s = deadline_of(settings, now_s)
    defaults = Terms(is_deferred, deadline_s=deadline_s) if is_deferred or deadline_s < inf else IMMEDIATE
    terms = LineTerms(now_s, settings.own_fields, defaults, settings.share)
    if not isinstance(settings.schema, Mapping):
        return RequestParser(settings, providers, terms=terms)
    from llmblast.providers.structured_outputs import schema_members  # noqa: PLC0415 -- most runs have no schema

    return RequestParser(settings, providers, schema_members(settings.schema), terms)


def deadline_of(settings: Settings, now_s: float) -> float:
    """Return when a run that starts at `now_s` has to be through, in Unix seconds; infinity where it need not."""
    if settings.by is not None:
        return parse_moment(settings.by, now_s)
    return inf if settings.deadline is None else now_s + settings.deadline


class Inputs:
    """The inputs that a run reads at the same time: their sizes, limits and ends count together."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.readers: list[InputReader] = []
        self.forms: dict[str | None, RowForm | None] = {}
        """The forms of rows, by the names of their files."""
        self.has_backlog = False
        """Lines were read ahead and may wait."""

    def end_backlog(self) -> None:
        """Expect no more lines that were read ahead."""
        self.has_backlog = False
        self.update()

    def update(self) -> None:
        """Bring the counters up to date."""
        sizes = [reader.size_bytes for reader in self.readers]
        limits = [reader.limit for reader in self.readers]
        self.counters.input_bytes = None if None in sizes else sum(filter(None, sizes))
        self.counters.lines_limit = None if None in limits else sum(filter(None, limits))
        self.counters.input_ended = not self.has_backlog and all(reader.has_ended for reader in self.readers)


class InputReader:
    """Read all inputs to their end, or to `limit` lines; leave out lines that earlier runs completed or put in batches.

    `notice` shows messages about an input that do not end the run. `file_format` is that of all inputs if it was named.
    `sample` is the number of random lines to take, and the seed. `unused` tells of settings that lines do not get.
    `inputs` are those that are read at the same time.
    """

    def __init__(
        self,
        sources: Sources,
        parser: RequestParser,
        counters: Counters,
        limit: int | None = None,
        *,
        answered: CompletedKeys | None = None,
        failed: CompletedKeys | None = None,
        in_batches: CompletedKeys | None = None,
        notice: Callable[[str], None] | None = None,
        file_format: str | None = None,
        sample: tuple[int, int] | None = None,
        record_keys: RecordKeys | None = None,
        unused: UnusedSettings | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self._sources = sources
        self._terms = parser.terms
        self._batches = BatchParser(parser, counters, limit, answered, failed, in_batches=in_batches)
        if record_keys is not None:
            self._batches.record_keys = record_keys
        self.limit = limit
        self.size_bytes: int | None = None
        self.has_ended = False
        self._notice = notice
        self._file_format = file_format
        self._sample = sample
        self._unused = unused
        self._inputs = inputs or Inputs(counters)
        self._inputs.readers.append(self)

    @property
    def has_other_terms(self) -> bool:
        """Return whether some line had other terms than those of its input."""
        return self._terms.has_read_others

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield requests and failures, up to 64 at a time.

        Raises InputDamagedError where an input breaks off, and UsageError where the columns of the first one are
        invalid.
        """
        sources = self._sources
        self._set_size(sources.size_bytes)
        lines_of_inputs = self._lines() if self._sample is None else self._sampled_lines(self._sample)
        async for lines in lines_of_inputs:
            if self._sample is None:
                self._set_size(sources.expected_bytes)
            for batch in self._batches.parse(lines):
                self._tell_unused(batch)
                yield batch
            if self.limit is not None and self._batches.lines_read >= self.limit:
                break
        else:
            self._tell_notes()
        self.end()

    @property
    def form(self) -> RowForm | None:
        """Return the form of the rows that were read last."""
        return self._batches.form

    def read_ahead(self, keep: Keep) -> None:
        """Ask from now on for each line whether it waits elsewhere."""
        self._batches.keep = keep

    def end(self) -> None:
        """Expect no more lines."""
        self.has_ended = True
        self._inputs.update()

    def _set_size(self, size_bytes: int | None) -> None:
        self.size_bytes = size_bytes
        self._inputs.update()

    async def _lines(self) -> AsyncIterator[Lines]:
        """Yield the lines of all inputs, block by block, and tell the parser what they are of."""
        is_first = True
        async for source in self._sources.each():
            reader = RowReader(source, self._file_format)
            self._batches.file = self._sources.file
            self._batches.record_keys.is_stream = source.is_stream
            self._tell_notes()
            try:
                async for lines in reader.lines():
                    if source.is_live:
                        self._terms.count_from(time.time())
                    self._batches.take_rows_of(reader.form)
                    self._inputs.forms[self._batches.file] = self._batches.form
                    self._check_last(source, reader, lines)
                    yield lines
            except UsageError as error:
                if is_first:
                    raise
                raise InputDamagedError(str(error)) from None  # requests of other files were sent
            is_first = False
            self._tell_notes()

    async def _sampled_lines(self, sample: tuple[int, int]) -> AsyncIterator[Lines]:
        """Yield N random lines of all inputs once all are read, in their order."""
        from llmblast.reading.sampling import Sampler  # noqa: PLC0415 -- most runs take all lines

        sampler = Sampler(*sample)
        parts: list[tuple[str | None, RowForm | None, int]] = []
        try:
            async for lines in self._lines():
                part = (self._batches.file, self._batches.form)
                await asyncio.to_thread(sampler.add, lines)
                if parts and parts[-1][:2] == part:
                    parts.pop()
                parts.append((*part, sampler.position))
            self._set_size(None)
            first = 1
            for file, form, last in parts:
                self._batches.file = file
                self._batches.take_rows_of(form)
                for lines in sampler.chosen(first, last):
                    yield lines
                first = last + 1
        finally:
            sampler.close()

    def _check_last(self, source: Source, reader: RowReader, lines: Lines) -> None:
        """Raise InputDamagedError if a last line without line end is half a line: another process still writes it, or
        was killed while it wrote a record.
        """
        if not (reader.is_last and reader.is_jsonl and lines):
            return
        number, text = lines[-1]
        is_half_record = source.is_stream and text.startswith(RECORD_START)
        if not (source.has_grown or is_half_record) or is_json(text):
            return
        place = input_place(source.name, LINE, number)
        if is_half_record:
            raise InputDamagedError(
                f"{place}: is half a record: the run that wrote it was ended: run the same commands again"
            )
        raise InputDamagedError(
            f"{place}: is still being written: run the same command again when the input is complete"
        )

    def _tell_notes(self) -> None:
        if self._notice is not None:
            for note in self._sources.take_notes():
                self._notice(note)

    def _tell_unused(self, batch: Batch) -> None:
        if self._unused is None or self._notice is None:
            return
        if (note := self._unused.note_on(batch)) is not None:
            self._notice(note)
            self._unused = None
