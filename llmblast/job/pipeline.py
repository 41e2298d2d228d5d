"""Build the pipeline of a run from its settings: the one place that knows which setting goes to which part."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from llmblast.errors import ExitCode, UsageError
from llmblast.job.allowance import allowance_of, kept_for
from llmblast.job.back_pressure import Sink, max_queued
from llmblast.job.batch_folders import has_batches
from llmblast.job.batch_parser import Batch
from llmblast.job.deadlines import Deadlines, Forecast
from llmblast.job.defects import Defects
from llmblast.job.deferred_ways import DeferredWays, may_choose_batches
from llmblast.job.endpoint_channels import connections_ahead, open_channels, secrets_in, start_mocks
from llmblast.job.engine import Engine
from llmblast.job.fingerprint import check_settings
from llmblast.job.flex_tier import FlexTier
from llmblast.job.hedging import Hedging
from llmblast.job.input_reader import InputReader, Inputs, deadline_of, make_parser
from llmblast.job.learned_limits import keep_limits, known_limits
from llmblast.job.line_prefixes import make_prefix_finder
from llmblast.job.messages import say
from llmblast.job.outputs import find_finished_in, open_outputs
from llmblast.job.read_ahead import ReadAhead
from llmblast.job.record_keys import RecordKeys
from llmblast.job.result_queue import ResultQueue
from llmblast.job.run_inputs import Prompts, make_parsers, open_deferred, open_input
from llmblast.job.run_outputs import make_writer, open_timeline
from llmblast.job.run_scheduler import gives_up, make_scheduler
from llmblast.job.unused_settings import UnusedSettings
from llmblast.providers import provider_of_key, providers_of
from llmblast.reading import CompletedKeys, RequestParser, RowForm, Source, Sources
from llmblast.reading.file_formats import forced_format
from llmblast.scheduling import KnownLimits, Scheduler
from llmblast.sending import Backoff, Channel, EndpointKey, connection_notes
from llmblast.setting_loading import parse_hedge
from llmblast.settings import Settings
from llmblast.urls import host_of
from llmblast.watching import Allowance, Counters, EndpointCounters, LimitsView, Timeline, prices_of
from llmblast.writing import OutputFile, Writer

if TYPE_CHECKING:
    from llmblast.caching import StoreThread
    from llmblast.job.answer_review import AnswerRules
    from llmblast.job.batch_building import OpenedBatches
    from llmblast.job.batch_sends import BatchSends
    from llmblast.job.single_sends import SingleSends
    from llmblast.writing.ordered_writer import OrderedWriter

ALLOWANCE_S = 0.5
"""How long an answer to "what do the endpoints allow now?" is reused: with hundreds of them it takes a millisecond."""


@dataclass(slots=True, eq=False)
class Feed:
    """Requests to send, and bad lines: of one of the inputs that are read at the same time, or of those that wait on
    disk or came back from batches, which have no reader.
    """

    batches: AsyncIterator[Batch]
    reader: InputReader | None = None
    is_deferred: bool = False


@dataclass(slots=True)
class Pipeline:
    """All parts of one run, connected."""

    counters: Counters
    feeds: Sequence[Feed]
    """What is read at the same time."""
    waiting: Feed
    """Lines that were read ahead, when it is their turn."""
    returned: Feed | None
    """Lines that came back from batches; None where nothing goes by batch."""
    read_ahead: ReadAhead
    deadlines: Deadlines
    forecast: Forecast
    engine: Engine
    writer: "Writer | OrderedWriter | ResultQueue"
    channels: Sequence[Channel]
    keys: Sequence[EndpointKey]
    """One for each channel; `renew_key` replaces both."""
    connections_ahead: Sequence[int]
    """How many connections each channel opens before the first request."""
    limits: LimitsView
    keep_limits: Callable[[], None]
    """Save the limits that the run has learned, for the next run; blocks."""
    timeline: Timeline | None
    notes: Sequence[str]
    """Messages about repaired outputs and the ways to the endpoints."""
    records_before: tuple[int, int]
    """Numbers of answers and of errors that earlier runs have left in the outputs."""
    defects: Defects
    can_resume: bool
    """Whether the answers go to a file, so that the same command can go on."""
    has_files: bool
    """Whether the outcomes go to files or pipes, not to a caller in this process."""
    batch_sends: "BatchSends | None"
    """What goes by batch; None where nothing does."""
    failed_elsewhere: Callable[[], int]
    """Return how many records of the errors file belong to no line of this input, as far as it has been read."""


@dataclass(slots=True)
class _Opened:
    """Parts of the pipeline that hold a file or a socket, and what was found in the files."""

    sources: Sources | None
    deferred_sources: Sources | None
    results: ResultQueue | None
    outputs: Sequence[OutputFile]
    """The files of answers and of errors; empty if the outcomes go to `results`."""
    answered: CompletedKeys
    failed: CompletedKeys
    store: "StoreThread | None"
    """Answers to earlier requests; None where each line is sent."""
    channels: Sequence[Channel]
    keys: Sequence[EndpointKey]
    counters: Counters
    timeline: Timeline | None
    notes: Sequence[str]
    known: Sequence[KnownLimits]
    defects: Defects
    has_stage_before: bool
    """The input are the records of one other run."""
    batches: "OpenedBatches | None"
    """What goes by batch, and what earlier runs have left there."""


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
    keys = [EndpointKey(e, environ, time.monotonic, provider_of_key(e, settings.model)) for e in settings.endpoints]
    rules = _make_answer_rules(settings)
    has_deferred = bool(settings.deferred) or deferred is not None
    parsers = make_parsers(settings, has_deferred=has_deferred)
    async with AsyncExitStack() as stack:
        sources = await open_input(settings, prompts, source, after_stage=after_stage, are_all=not has_deferred)
        deferred_sources = await open_deferred(settings, deferred) if has_deferred else None
        for opened_sources in filter(None, (sources, deferred_sources)):
            stack.push_async_callback(opened_sources.close)
        outputs = () if results is not None else open_outputs(settings)
        for output in outputs:
            stack.callback(output.close)
        answered, failed, known = await _find_finished(settings, outputs)
        store = await _open_store(settings, defects)
        if store is not None:
            stack.push_async_callback(store.close)
        endpoints = await start_mocks(settings.endpoints, stack)
        channels = open_channels(settings, endpoints, keys, environ, stack)
        batches = None
        if outputs and (settings.sends_batches or may_choose_batches(settings) or has_batches(settings.save)):
            from llmblast.job.batch_building import open_batches  # noqa: PLC0415 -- most runs send no batches

            batches = await open_batches(
                settings, endpoints, keys=keys, channels=channels, environ=environ, stack=stack
            )
        counters = Counters(
            endpoints=[EndpointCounters(e.name, e.weight, prices=prices_of(e, settings)) for e in settings.endpoints]
        )
        defects.on_run_built(partial(secrets_in, channels), counters.by_name)
        timeline = open_timeline(settings.timeline, counters, stack, defects.fence)
        notes = [note for output in outputs for note in output.repaired]
        notes += connection_notes(endpoints, environ, verbose=settings.verbose)
        opened = _Opened(
            sources,
            deferred_sources,
            results,
            outputs,
            answered,
            failed,
            store,
            channels,
            keys,
            counters,
            timeline,
            notes,
            known,
            defects,
            after_stage or source is not None,
            batches,
        )
        pipeline = _assemble(settings, parsers, opened, rules)
        stack.callback(pipeline.read_ahead.close)
        if pipeline.batch_sends is not None:
            stack.push_async_callback(pipeline.batch_sends.close)
        yield pipeline


async def _find_finished(
    settings: Settings, outputs: Sequence[OutputFile]
) -> tuple[CompletedKeys, CompletedKeys, Sequence[KnownLimits]]:
    """Return what earlier runs have left: the keys of answered lines and of failed ones, and the limits they learned.

    Raises UsageError where these runs had other settings.
    """
    if not outputs:
        return CompletedKeys([]), CompletedKeys([]), ()
    is_resumable = outputs[0].is_resumable
    if is_resumable:
        await asyncio.to_thread(check_settings, settings)
    answered, failed = await asyncio.to_thread(find_finished_in, settings, *outputs)
    return answered, failed, known_limits(settings, time.time()) if is_resumable else ()


def _assemble(
    settings: Settings, parsers: Sequence[RequestParser], opened: _Opened, rules: "AnswerRules | None"
) -> Pipeline:
    counters = opened.counters
    fence = opened.defects.fence
    tell = partial(say, opened.defects)
    scheduler = make_scheduler(settings, opened.known, fence)
    deadlines = Deadlines(counters)
    can_resume = bool(opened.outputs) and opened.outputs[0].is_resumable
    writer: Writer | OrderedWriter | ResultQueue = opened.results or make_writer(
        settings, opened.outputs, opened.defects
    )
    sends = _make_sends(
        settings,
        opened,
        writer,
        rules,
        deadlines=deadlines,
        stop=lambda code, why: engine.stop(code, why),  # noqa: PLW0108 -- the engine is made below
    )
    sink: Sink = sends or writer
    if rules is not None and rules.command is not None:
        from llmblast.job.answer_review import CheckedSink  # noqa: PLC0415 -- most runs check no answers

        sink = CheckedSink(sink, rules.command)
    ways = DeferredWays(
        settings,
        providers_of(settings.endpoints, settings.model),
        counters,
        lines_per_s=lambda: limits.allowance().lines_per_s,
        wall_clock=time.time,
    )
    engine = _make_engine(settings, opened, scheduler, sink, rules, deadlines=deadlines, ways=ways)
    limits = _view_limits(settings, scheduler, engine, opened)
    batch_sends = _make_batch_sends(settings, opened, engine, writer, sends, sink=sink, limits=limits, ways=ways)
    inputs = Inputs(counters)
    to_send = partial(_to_send, settings, opened, writer, sends, batch_sends=batch_sends)
    feeds = _make_feeds(settings, parsers, opened, inputs, to_send)
    read_ahead = ReadAhead(
        scheduler,
        inputs,
        max_queued(settings.concurrency),
        partial(make_parser, settings, providers_of(settings.endpoints, settings.model)),
        partial(deadlines.on_read, lines=settings.repeat),
        can_take_back=settings.repeat == 1 and sends is None,
        has_batches=batch_sends is not None,
    )

    def keep() -> None:
        if can_resume:
            keep_limits(settings, scheduler.endpoints, time.time())

    return Pipeline(
        counters=counters,
        feeds=feeds,
        waiting=Feed(to_send(found=read_ahead.batches(), form=partial(getattr, read_ahead, "form"))),
        returned=None if batch_sends is None else Feed(batch_sends.returned()),
        read_ahead=read_ahead,
        deadlines=deadlines,
        forecast=Forecast(deadlines, counters, limits.allowance, deadline_of(settings, time.time()), tell),
        engine=engine,
        writer=writer,
        channels=opened.channels,
        keys=opened.keys,
        connections_ahead=[connections_ahead(settings, endpoint) for endpoint in settings.endpoints],
        limits=limits,
        keep_limits=keep,
        timeline=opened.timeline,
        notes=opened.notes,
        records_before=(len(opened.answered), len(opened.failed)),
        defects=opened.defects,
        can_resume=can_resume,
        has_files=bool(opened.outputs),
        batch_sends=batch_sends,
        failed_elsewhere=lambda: len(opened.failed),
    )


def _make_engine(
    settings: Settings,
    opened: _Opened,
    scheduler: Scheduler,
    sink: Sink,
    rules: "AnswerRules | None",
    *,
    deadlines: Deadlines,
    ways: DeferredWays,
) -> Engine:
    tell = partial(say, opened.defects)
    return Engine(
        scheduler,
        opened.channels,
        sink,
        Backoff(settings.max_attempts, Random()),
        opened.counters,
        clock=time.monotonic,
        wall_clock=time.time,
        max_in_flight=settings.concurrency,
        max_wait_s=settings.max_wait,
        keys=opened.keys,
        providers=providers_of(settings.endpoints, settings.model),
        gives_up=gives_up(settings.max_errors),
        notice=tell if settings.verbose and not settings.quiet else None,
        hedging=None if settings.hedge is None else Hedging(parse_hedge(settings.hedge)),
        fence=opened.defects.fence,
        report_defect=opened.defects.report,
        answer_rules=rules,
        prefixes=make_prefix_finder(settings.warm_prefix),
        flex=FlexTier(ways.flex_for, time.time, settings.max_wait, tell, Random().random) if ways.has_flex else None,
        deadlines=deadlines,
    )


def _make_batch_sends(
    settings: Settings,
    opened: _Opened,
    engine: Engine,
    writer: "Writer | OrderedWriter | ResultQueue",
    sends: "SingleSends | None",
    *,
    sink: Sink,
    limits: LimitsView,
    ways: DeferredWays,
) -> "BatchSends | None":
    """Return what sends lines by batch; None where none goes that way."""
    if opened.batches is None or isinstance(writer, ResultQueue):
        return None
    from llmblast.job.batch_building import expect_earlier, make_batch_sends  # noqa: PLC0415 -- most runs send none

    expect_earlier(
        opened.batches,
        expect=None if isinstance(writer, Writer) else writer.expect,
        wait_for=None if sends is None else sends.expect,
    )
    return make_batch_sends(
        settings,
        opened.batches,
        engine,
        writer=writer,
        sink=sink,
        counters=opened.counters,
        say=partial(say, opened.defects),
        lines_per_s=lambda: limits.allowance().lines_per_s,
        ways=ways,
    )


def _make_feeds(
    settings: Settings,
    parsers: Sequence[RequestParser],
    opened: _Opened,
    inputs: Inputs,
    to_send: Callable[..., AsyncIterator[Batch]],
) -> Sequence[Feed]:
    """Return what reads the input, and the lines that may wait."""
    counters, answered, failed = opened.counters, opened.answered, opened.failed
    is_once = settings.repeat == 1
    feeds: list[Feed] = []
    for sources, parser in zip((opened.sources, opened.deferred_sources), parsers, strict=False):
        if sources is None:
            continue
        reader = InputReader(
            sources,
            parser,
            counters,
            settings.limit,
            answered=answered if is_once else None,
            failed=failed if is_once else None,
            in_batches=None if opened.batches is None else opened.batches.keys,
            notice=partial(say, opened.defects),
            file_format=forced_format(settings.format),
            sample=None if settings.sample is None else (settings.sample, settings.seed),
            record_keys=RecordKeys(may_mix=not opened.has_stage_before),
            unused=UnusedSettings(settings),
            inputs=inputs,
        )
        found = to_send(found=reader.batches(), form=partial(getattr, reader, "form"))
        feeds.append(Feed(found, reader, is_deferred=parser.terms.defaults.is_deferred))
    return feeds


def _to_send(
    settings: Settings,
    opened: _Opened,
    writer: "Writer | OrderedWriter | ResultQueue",
    sends: "SingleSends | None",
    *,
    batch_sends: "BatchSends | None",
    found: AsyncIterator[Batch],
    form: Callable[[], RowForm | None],
) -> AsyncIterator[Batch]:
    """Return the requests to send for the lines that were found, and bad lines.

    `form` returns the form of the rows that were found last.
    """
    if settings.repeat > 1:
        from llmblast.job.repeats import Repeats  # noqa: PLC0415 -- most lines are answered once

        repeats = Repeats(settings.repeat, _hosts_of(settings), opened.counters, opened.answered, opened.failed)
        found = repeats.batches(found)
    if settings.ordered:
        from llmblast.job.announcing_reader import announced  # noqa: PLC0415 -- most runs keep no order

        found = announced(found, writer)
    if sends is not None:
        found = sends.batches(found)
    return found if batch_sends is None else batch_sends.without_deferred(found, form)


def _make_answer_rules(settings: Settings) -> "AnswerRules | None":
    if not settings.judges_answers:
        return None
    from llmblast.job.answer_rules import make_answer_rules  # noqa: PLC0415 -- most runs judge no answers

    return make_answer_rules(settings)


async def _open_store(settings: Settings, defects: Defects) -> "StoreThread | None":
    if settings.cache is None and not settings.dedupe:
        return None
    from llmblast.job.single_sends import open_store  # noqa: PLC0415 -- sqlite3, which few runs need

    return await open_store(settings, partial(say, defects))


def _make_sends(
    settings: Settings,
    opened: _Opened,
    writer: "Writer | OrderedWriter | ResultQueue",
    rules: "AnswerRules | None",
    *,
    deadlines: Deadlines,
    stop: Callable[[ExitCode, str], None],
) -> "SingleSends | None":
    """Return what looks for answers to earlier requests; None without a store."""
    if opened.store is None:
        return None
    from llmblast.job.single_sends import SingleSends, request_keys  # noqa: PLC0415 -- most runs have no store

    opened.store.on_room = writer.changed.set
    return SingleSends(
        request_keys(settings),
        opened.store,
        writer,
        opened.counters,
        providers=providers_of(settings.endpoints, settings.model),
        names=[endpoint.name for endpoint in settings.endpoints],
        stop=stop,
        fence=opened.defects.fence,
        checks=None if rules is None else rules.checks,
        deadlines=deadlines,
    )


def _hosts_of(settings: Settings) -> Mapping[str, set[str]]:
    """Return the hosts of the endpoints by the kinds of their providers."""
    hosts: dict[str, set[str]] = {}
    for endpoint, provider in zip(settings.endpoints, providers_of(settings.endpoints, settings.model), strict=True):
        hosts.setdefault(provider.kind, set()).add(host_of(endpoint.url) or "")
    return hosts


def _view_limits(settings: Settings, scheduler: Scheduler, engine: Engine, opened: _Opened) -> LimitsView:
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
