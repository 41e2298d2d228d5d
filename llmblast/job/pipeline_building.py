"""Build the pipeline of a run from its settings: the one place that knows which setting goes to which part."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from llmblast.errors import UsageError
from llmblast.job.allowance import allowance_of, kept_for
from llmblast.job.back_pressure import Sink
from llmblast.job.deadlines import Deadlines, Forecast
from llmblast.job.defects import Defects
from llmblast.job.deferred_ways import DeferredWays
from llmblast.job.endpoint_channels import connections_ahead
from llmblast.job.engine import Engine
from llmblast.job.feeds import Feed, Feeds
from llmblast.job.flex_tier import FlexTier
from llmblast.job.hedging import Hedging
from llmblast.job.input_reader import deadline_of
from llmblast.job.learned_limits import keep_limits
from llmblast.job.line_prefixes import FieldOfLines, make_prefix_finder
from llmblast.job.messages import say
from llmblast.job.opened_parts import OpenedParts, open_parts
from llmblast.job.pipeline import Pipeline
from llmblast.job.result_queue import ResultQueue
from llmblast.job.run_inputs import Prompts, make_parsers
from llmblast.job.run_outputs import make_writer
from llmblast.job.run_scheduler import gives_up, make_scheduler
from llmblast.job.unused_settings import note_on_weights
from llmblast.providers import providers_of
from llmblast.reading import RequestParser, Source
from llmblast.reading.terms import LineTerms
from llmblast.sending import Backoff
from llmblast.setting_loading import parse_hedge
from llmblast.settings import Settings
from llmblast.watching import Allowance, LimitsView
from llmblast.writing import Writer

if TYPE_CHECKING:
    from llmblast.job.answer_review import AnswerRules
    from llmblast.job.batch_sends import BatchSends
    from llmblast.job.single_sends import SingleSends
    from llmblast.writing.ordered_writer import OrderedWriter

ALLOWANCE_S = 0.5
"""How long an answer to "what do the endpoints allow now?" is reused: with hundreds of them it takes a millisecond."""


@asynccontextmanager
async def build_pipeline(
    settings: Settings,
    environ: Mapping[str, str],
    defects: Defects,
    *,
    prompts: Prompts | None = None,
    deferred: Prompts | None = None,
    results: ResultQueue | None = None,
    source: Source | None = None,
    after_stage: bool = False,
) -> AsyncIterator[Pipeline]:
    """Build the pipeline, and close its input, channels and files at the end; the caller closes the writer.

    `prompts`, or a `source` with the records of an earlier stage, replace the input that the settings name, `deferred`
    prompts the one of lines that may wait. With `results`, the outcomes go there and no file is written. `after_stage`
    tells that the prompts, too, are the records of an earlier stage.
    The settings have passed `run_preflight_checks`, or `check_endpoints` if there are no outputs.
    Raise UsageError, InputMissingError or OutputBlockedError before anything is sent.
    """
    if results is not None and settings.sends_batches:
        raise UsageError(
            "defer: needs a file of answers, beside which the run notes which batches were started: "
            "use run(..., save=FILE)"
        )
    rules = _make_answer_rules(settings)
    parsers = make_parsers(settings, has_deferred=bool(settings.deferred) or deferred is not None)
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(
            open_parts(
                settings,
                environ,
                defects,
                prompts=prompts,
                deferred=deferred,
                results=results,
                source=source,
                after_stage=after_stage,
            )
        )
        pipeline = _Assembly(settings, opened, rules).pipeline(parsers)
        stack.callback(pipeline.read_ahead.close)
        if pipeline.batch_sends is not None:
            stack.push_async_callback(pipeline.batch_sends.close)
        yield pipeline


class _Assembly:
    """Makes the parts that hold no file and no socket, each from those before it, and connects all of them."""

    def __init__(self, settings: Settings, opened: OpenedParts, rules: "AnswerRules | None") -> None:
        self._settings = settings
        self._opened = opened
        self._rules = rules
        self._providers = providers_of(settings.endpoints, settings.model)
        self._scheduler = make_scheduler(settings, opened.known, opened.defects.fence)
        self._deadlines = Deadlines(opened.counters)
        self._prefix_field = FieldOfLines(settings.warm_prefix, self._say)
        self._writer: Writer | OrderedWriter | ResultQueue = opened.results or make_writer(
            settings, opened.outputs, opened.defects
        )
        self._sends = self._make_sends()
        self._sink = self._make_sink()
        self._ways = DeferredWays(
            settings, self._providers, opened.counters, lines_per_s=self._lines_per_s, wall_clock=time.time
        )
        self._engine = self._make_engine()
        self._limits = self._view_limits()
        self._batch_sends = self._make_batch_sends()

    def pipeline(self, parsers: Sequence[RequestParser]) -> Pipeline:
        """Return the pipeline; `parsers` read its inputs. Call once."""
        settings, opened = self._settings, self._opened
        feeds = Feeds(
            settings,
            opened,
            self._providers,
            writer=self._writer,
            sends=self._sends,
            batch_sends=self._batch_sends,
        )
        read_ahead = feeds.read_ahead(self._scheduler, self._deadlines)
        return Pipeline(
            counters=opened.counters,
            feeds=feeds.of_inputs(parsers),
            waiting=feeds.waiting(read_ahead),
            returned=None if self._batch_sends is None else Feed(self._batch_sends.returned()),
            read_ahead=read_ahead,
            deadlines=self._deadlines,
            forecast=Forecast(
                self._deadlines,
                opened.counters,
                self._limits.allowance,
                deadline_of(settings, time.time()),
                self._say,
            ),
            engine=self._engine,
            writer=self._writer,
            channels=opened.channels,
            keys=opened.keys,
            connections_ahead=[connections_ahead(settings, endpoint) for endpoint in settings.endpoints],
            limits=self._limits,
            keep_limits=self._keep_limits,
            timeline=opened.timeline,
            notes=opened.notes,
            records_before=(len(opened.answered), len(opened.failed)),
            defects=opened.defects,
            can_resume=opened.can_resume,
            has_files=bool(opened.outputs),
            batch_sends=self._batch_sends,
            failed_elsewhere=lambda: len(opened.failed),
            tell_unused=partial(self._tell_unused, [parser.terms for parser in parsers]),
        )

    def _say(self, text: str) -> None:
        say(self._opened.defects, text)

    def _tell_unused(self, terms: Sequence[LineTerms]) -> None:
        self._prefix_field.tell_missing()
        counters, note = self._opened.counters, note_on_weights(self._settings, terms)
        if note is not None and counters.lines_read and not counters.skipped:
            self._say(note)

    def _keep_limits(self) -> None:
        if self._opened.can_resume:
            keep_limits(self._settings, self._scheduler.endpoints, time.time())

    def _lines_per_s(self) -> float | None:
        return self._limits.allowance().lines_per_s

    def _make_sends(self) -> "SingleSends | None":
        """Return what looks for answers to earlier requests; None without a store."""
        settings, opened = self._settings, self._opened
        if opened.store is None:
            return None
        from llmblast.job.single_sends import SingleSends, request_keys  # noqa: PLC0415 -- most runs have no store

        opened.store.on_room = self._writer.changed.set
        return SingleSends(
            request_keys(settings),
            opened.store,
            self._writer,
            opened.counters,
            providers=self._providers,
            names=[endpoint.name for endpoint in settings.endpoints],
            stop=lambda code, why: self._engine.stop(code, why),  # noqa: PLW0108 -- the engine is made later
            fence=opened.defects.fence,
            checks=None if self._rules is None else self._rules.checks,
            deadlines=self._deadlines,
        )

    def _make_sink(self) -> Sink:
        sink: Sink = self._sends or self._writer
        if self._rules is None or self._rules.command is None:
            return sink
        from llmblast.job.answer_review import CheckedSink  # noqa: PLC0415 -- most runs check no answers

        return CheckedSink(sink, self._rules.command)

    def _make_engine(self) -> Engine:
        settings, opened = self._settings, self._opened
        flex = None
        if self._ways.has_flex:
            flex = FlexTier(self._ways.flex_for, time.time, settings.max_wait, self._say, Random().random)
        return Engine(
            self._scheduler,
            opened.channels,
            self._sink,
            Backoff(settings.max_attempts, Random()),
            opened.counters,
            clock=time.monotonic,
            wall_clock=time.time,
            max_in_flight=settings.concurrency,
            max_wait_s=settings.max_wait,
            keys=opened.keys,
            providers=self._providers,
            gives_up=gives_up(settings.max_errors),
            notice=self._say if settings.verbose and not settings.quiet else None,
            hedging=None if settings.hedge is None else Hedging(parse_hedge(settings.hedge)),
            fence=opened.defects.fence,
            report_defect=opened.defects.report,
            answer_rules=self._rules,
            prefixes=make_prefix_finder(settings.warm_prefix, self._prefix_field),
            flex=flex,
            deadlines=self._deadlines,
        )

    def _make_batch_sends(self) -> "BatchSends | None":
        """Return what sends lines by batch; None where none goes that way."""
        settings, opened, writer, sends = self._settings, self._opened, self._writer, self._sends
        if opened.batches is None or isinstance(writer, ResultQueue):
            return None
        from llmblast.job.batch_building import expect_earlier, make_batch_sends  # noqa: PLC0415 -- most send none

        expect_earlier(
            opened.batches,
            expect=None if isinstance(writer, Writer) else writer.expect,
            wait_for=None if sends is None else sends.expect,
        )
        return make_batch_sends(
            settings,
            opened.batches,
            self._engine,
            writer=writer,
            sink=self._sink,
            counters=opened.counters,
            say=self._say,
            lines_per_s=self._lines_per_s,
            ways=self._ways,
        )

    def _view_limits(self) -> LimitsView:
        settings, opened, scheduler, engine = self._settings, self._opened, self._scheduler, self._engine
        counters = opened.counters

        def allowance() -> Allowance:
            finished_before = len(opened.answered) + len(opened.failed)
            now_allowed = allowance_of(scheduler, counters, finished_before, time.monotonic(), time.time)
            return replace(now_allowed, is_ending=engine.end.stopping.is_set())

        return LimitsView(
            tokens_per_minute_limit=settings.together("tpm"),
            requests_per_second_limit=settings.together("rps"),
            waited=lambda: scheduler.waited(time.monotonic()),
            used=lambda: scheduler.used(counters.sent, counters.sending_s),
            allowance=kept_for(ALLOWANCE_S, allowance, time.monotonic),
        )


def _make_answer_rules(settings: Settings) -> "AnswerRules | None":
    if not settings.judges_answers:
        return None
    from llmblast.job.answer_rules import make_answer_rules  # noqa: PLC0415 -- most runs judge no answers

    return make_answer_rules(settings)
