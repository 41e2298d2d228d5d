"""Feeds: where the requests of a run come from, and what looks at them on their way to the engine."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llmblast.job.back_pressure import max_queued
from llmblast.job.batch_parser import Batch
from llmblast.job.deadlines import Deadlines
from llmblast.job.input_reader import InputReader, Inputs, make_parser
from llmblast.job.messages import say
from llmblast.job.opened_parts import OpenedParts
from llmblast.job.read_ahead import ReadAhead
from llmblast.job.record_keys import RecordKeys
from llmblast.job.result_queue import ResultQueue
from llmblast.job.unused_settings import UnusedSettings
from llmblast.provider_contract import Provider
from llmblast.reading import RequestParser, RowForm, Sources
from llmblast.reading.file_formats import forced_format
from llmblast.scheduling import Scheduler
from llmblast.settings import Settings
from llmblast.urls import host_of
from llmblast.writing import Writer

if TYPE_CHECKING:
    from llmblast.job.batch_sends import BatchSends
    from llmblast.job.single_sends import SingleSends
    from llmblast.writing.ordered_writer import OrderedWriter


@dataclass(slots=True, eq=False)
class Feed:
    """Requests to send, and bad lines: of one of the inputs that are read at the same time, or of those that wait on
    disk or came back from batches, which have no reader.
    """

    batches: AsyncIterator[Batch]
    reader: InputReader | None = None
    is_deferred: bool = False


class Feeds:
    """Makes the feeds of a run."""

    def __init__(
        self,
        settings: Settings,
        opened: OpenedParts,
        providers: Sequence[Provider],
        *,
        writer: "Writer | OrderedWriter | ResultQueue",
        sends: "SingleSends | None",
        batch_sends: "BatchSends | None",
    ) -> None:
        self._settings = settings
        self._opened = opened
        self._providers = providers
        self._writer = writer
        self._sends = sends
        self._batch_sends = batch_sends
        self._inputs = Inputs(opened.counters)

    def read_ahead(self, scheduler: Scheduler, deadlines: Deadlines) -> ReadAhead:
        """Return the lines that are read ahead, and wait on disk."""
        settings = self._settings
        return ReadAhead(
            scheduler,
            self._inputs,
            max_queued(settings.concurrency),
            partial(make_parser, settings, self._providers),
            partial(deadlines.on_read, lines=settings.repeat),
            can_take_back=settings.repeat == 1 and self._sends is None,
            has_batches=self._batch_sends is not None,
        )

    def waiting(self, read_ahead: ReadAhead) -> Feed:
        """Return the feed of the lines that were read ahead."""
        return Feed(self._to_send(read_ahead.batches(), lambda: read_ahead.form))

    def of_inputs(self, parsers: Sequence[RequestParser]) -> Sequence[Feed]:
        """Return the feeds of the input, and of the one with lines that may wait. Each has its parser."""
        both = zip((self._opened.sources, self._opened.deferred_sources), parsers, strict=False)
        return [self._of_input(sources, parser) for sources, parser in both if sources is not None]

    def _of_input(self, sources: Sources, parser: RequestParser) -> Feed:
        settings, opened = self._settings, self._opened
        is_once = settings.repeat == 1
        reader = InputReader(
            sources,
            parser,
            opened.counters,
            settings.limit,
            answered=opened.answered if is_once else None,
            failed=opened.failed if is_once else None,
            in_batches=None if opened.batches is None else opened.batches.keys,
            notice=partial(say, opened.defects),
            file_format=forced_format(settings.format),
            sample=None if settings.sample is None else (settings.sample, settings.seed),
            record_keys=RecordKeys(may_mix=not opened.has_stage_before),
            unused=UnusedSettings(settings),
            inputs=self._inputs,
        )
        found = self._to_send(reader.batches(), lambda: reader.form)
        return Feed(found, reader, is_deferred=parser.terms.defaults.is_deferred)

    def _to_send(self, found: AsyncIterator[Batch], form: Callable[[], RowForm | None]) -> AsyncIterator[Batch]:
        """Return the requests to send for the lines that were found, and bad lines.

        `form` returns the form of the rows that were found last.
        """
        settings, opened = self._settings, self._opened
        if settings.repeat > 1:
            from llmblast.job.repeats import Repeats  # noqa: PLC0415 -- most lines are answered once

            repeats = Repeats(settings.repeat, self._hosts(), opened.counters, opened.answered, opened.failed)
            found = repeats.batches(found)
        if settings.ordered:
            from llmblast.job.announcing_reader import announced  # noqa: PLC0415 -- most runs keep no order

            found = announced(found, self._writer)
        if self._sends is not None:
            found = self._sends.batches(found)
        return found if self._batch_sends is None else self._batch_sends.without_deferred(found, form)

    def _hosts(self) -> Mapping[str, set[str]]:
        """Return the hosts of the endpoints by the kinds of their providers."""
        hosts: dict[str, set[str]] = {}
        for endpoint, provider in zip(self._settings.endpoints, self._providers, strict=True):
            hosts.setdefault(provider.kind, set()).add(host_of(endpoint.url) or "")
        return hosts
