"""Stations from settings: the one place that knows which setting goes to which part."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from math import inf
from random import Random

from llmblast.errors import LlmblastError, OutputFailedError
from llmblast.fence import Fence
from llmblast.hiding import hide_user, secrets_in_query
from llmblast.job.allowance import allowance_of, kept_for
from llmblast.job.defects import Defects
from llmblast.job.engine import Engine
from llmblast.job.fingerprint import SUFFIX as SETTINGS
from llmblast.job.fingerprint import check_settings, keep_settings
from llmblast.job.hedging import Hedging
from llmblast.job.input_reader import InputReader
from llmblast.job.learned_limits import SUFFIX as LIMITS
from llmblast.job.learned_limits import keep_limits, known_limits
from llmblast.job.redacting_channel import RedactingChannel, secrets_of
from llmblast.pipes import is_pipe
from llmblast.providers import provider_of_key, providers_of
from llmblast.reading import CompletedKeys, RequestParser, Source, open_source
from llmblast.scheduling import ROUTES, Endpoint, KnownLimits, PushBack, Scheduler, limit_set
from llmblast.sending import NO_PROXY, TRANSPORTS, Backoff, Channel, EndpointKey, connection_notes, make_target
from llmblast.settings import EndpointSettings, Settings, parse_hedge, parse_max_errors
from llmblast.watching import Allowance, Counters, EndpointCounters, LimitsView, Timeline, sanitize_text
from llmblast.writing import OutputFile, SharedFile, Spool, Timing, Writer, should_retry
from llmblast.writing.side_file import check_side_file
from llmblast.writing.spool import POINTER

AHEAD_S = 0.1
ALLOWANCE_S = 0.5
"""With hundreds of endpoints, it takes a millisecond to find out what they allow."""
MOST_AHEAD = 1000


@dataclass(slots=True)
class Stations:
    """Everything that one run needs, ready to go."""

    counters: Counters
    input_reader: InputReader
    engine: Engine
    writer: Writer
    channels: Sequence[Channel]
    keys: Sequence[EndpointKey]
    """One for each channel; `renew_key` asks for another and gives it to the channel."""
    connections_ahead: Sequence[int]
    """How many each channel opens before the first request."""
    limits: LimitsView
    keep_limits: Callable[[], None]
    """Keeps what the run has learned of its endpoints for the next one; blocks."""
    timeline: Timeline | None
    notes: Sequence[str]
    """What opening the outputs put right, and how endpoints are reached, for a person."""
    records_before: tuple[int, int]
    """Answers and errors that earlier runs have left in the outputs."""
    defects: Defects
    can_resume: bool
    """Whether the answers go to a file, so that the same command can go on."""
    failed_elsewhere: Callable[[], int]
    """Records in the errors file that belong to no line of this input, as far as it has been read."""


@dataclass(slots=True)
class _Opened:
    """What holds a file or a socket."""

    source: Source
    outputs: tuple[OutputFile, OutputFile]
    answered: CompletedKeys
    failed: CompletedKeys
    channels: Sequence[Channel]
    keys: Sequence[EndpointKey]
    counters: Counters
    timeline: Timeline | None
    notes: Sequence[str]
    known: Sequence[KnownLimits]
    defects: Defects


@asynccontextmanager
async def open_stations(settings: Settings, environ: Mapping[str, str], defects: Defects) -> AsyncIterator[Stations]:
    """Builds all stations, and closes what has no end of its own; the writer is closed by whoever runs it.

    The settings have passed `run_preflight_checks`.
    Raises UsageError, InputMissingError or OutputBlockedError before anything is sent.
    """
    keys = [EndpointKey(e, environ, time.monotonic, provider_of_key(e)) for e in settings.endpoints]
    parser = RequestParser(settings, providers_of(settings.endpoints))
    async with AsyncExitStack() as stack:
        source = await open_source(settings.input)
        stack.push_async_callback(source.close)
        outputs = _open_outputs(settings)
        for output in outputs:
            stack.callback(output.close)
        if outputs[0].is_resumable:
            await asyncio.to_thread(check_settings, settings)
            outputs[0].before_first_append = partial(_keep_settings, settings, defects.fence)
        answered, failed = await asyncio.to_thread(_find_finished, settings, *outputs)
        known = known_limits(settings, time.time()) if outputs[0].is_resumable else ()
        endpoints = await _start_mocks(settings.endpoints, stack)
        channels = _open_channels(settings, endpoints, keys, environ, stack)
        counters = Counters(endpoints=[EndpointCounters(e.name, e.weight) for e in settings.endpoints])
        defects.secrets = lambda: (secret for c in channels if isinstance(c, RedactingChannel) for secret in c.secrets)
        defects.progress = lambda: {entry.name: getattr(counters, entry.name) for entry in fields(counters)}
        timeline = _open_timeline(settings.timeline, counters, stack, defects.fence)
        notes = [note for output in outputs for note in output.repaired]
        notes += connection_notes(endpoints, environ, verbose=settings.verbose)
        opened = _Opened(source, outputs, answered, failed, channels, keys, counters, timeline, notes, known, defects)
        yield _assemble(settings, parser, opened)


def _assemble(settings: Settings, parser: RequestParser, opened: _Opened) -> Stations:
    counters = opened.counters
    fence = opened.defects.fence
    say = partial(_say, fence)
    scheduler = make_scheduler(settings, opened.known, fence)
    writer = Writer(
        *opened.outputs,
        echo=settings.echo,
        body=settings.body,
        on_room=lambda: engine.pump(),  # noqa: PLW0108 -- the engine comes after the writer
        on_failure=lambda: _end_without_output(engine, writer.failure),
        notice=say,
        spool_directory=settings.spool,
        timing=Timing(disk_wait_s=settings.disk_wait),
    )
    engine = Engine(
        scheduler,
        opened.channels,
        writer,
        Backoff(settings.max_attempts, Random()),
        counters,
        clock=time.monotonic,
        wall_clock=time.time,
        max_in_flight=settings.concurrency,
        max_wait_s=settings.max_wait,
        keys=opened.keys,
        providers=providers_of(settings.endpoints),
        gives_up=_gives_up(settings.max_errors),
        notice=say if settings.verbose and not settings.quiet else None,
        hedging=None if settings.hedge is None else Hedging(parse_hedge(settings.hedge)),
        fence=fence,
        report_defect=opened.defects.report,
    )

    def keep() -> None:
        if opened.outputs[0].is_resumable:
            keep_limits(settings, scheduler.endpoints, time.time())

    def allowance() -> Allowance:
        finished_before = len(opened.answered) + len(opened.failed)
        now_allowed = allowance_of(scheduler, counters, finished_before, time.monotonic(), time.time)
        return replace(now_allowed, is_ending=engine.stopping.is_set())

    input_reader = InputReader(
        opened.source, parser, counters, settings.limit, answered=opened.answered, failed=opened.failed
    )
    return Stations(
        counters=counters,
        input_reader=input_reader,
        engine=engine,
        writer=writer,
        channels=opened.channels,
        keys=opened.keys,
        connections_ahead=[_connections_ahead(settings, endpoint) for endpoint in settings.endpoints],
        limits=LimitsView(
            tokens_per_minute_limit=settings.together("tpm"),
            requests_per_second_limit=settings.together("rps"),
            waited=lambda: scheduler.waited(time.monotonic()),
            used=lambda: scheduler.used(counters.sent, counters.sending_s),
            allowance=kept_for(ALLOWANCE_S, allowance, time.monotonic),
        ),
        keep_limits=keep,
        timeline=opened.timeline,
        notes=opened.notes,
        records_before=(len(opened.answered), len(opened.failed)),
        defects=opened.defects,
        can_resume=opened.outputs[0].is_resumable,
        failed_elsewhere=lambda: len(opened.failed),
    )


def _end_without_output(engine: Engine, failure: OutputFailedError | None) -> None:
    if failure is not None:
        engine.stop(failure.exit_code, str(failure))


def _open_timeline(path: str | None, counters: Counters, stack: AsyncExitStack, fence: Fence) -> Timeline | None:
    if not path:
        return None
    try:
        timeline = Timeline(path, counters, time.monotonic, time.time)
    except LlmblastError:
        raise
    except Exception as error:  # noqa: BLE001 -- the run does not depend on it
        fence.switch_off("the timeline", error)
        return None
    stack.callback(timeline.close)
    return timeline


def _say(fence: Fence, text: str) -> None:
    with suppress(OSError):  # the terminal may be gone; the files are what counts
        sys.stderr.write(shown(text, 500, fence) + "\n")
        sys.stderr.flush()


def shown(text: str, max_length: int, fence: Fence) -> str:
    """Return text from outside in a form that is safe on a terminal."""
    text = hide_user(text)
    with fence.around("cleaning messages"):
        return sanitize_text(text, max_length)
    return "".join(character for character in text[:max_length] if character.isprintable())


def make_scheduler(settings: Settings, known: Sequence[KnownLimits] = (), fence: Fence | None = None) -> Scheduler:
    """Build the scheduler with both levels of limits; `known` is what earlier runs learned of each endpoint."""
    known = known or [KnownLimits()] * len(settings.endpoints)
    run_limits = limit_set("run", settings, settings.burst)
    quotas = {e.quota: PushBack(f"{e.quota} pause") for e in settings.endpoints if e.quota}
    endpoints = [
        Endpoint(
            index,
            endpoint,
            settings.burst,
            quotas[endpoint.quota] if endpoint.quota else None,
            run=settings,
            known=limits,
            fence=fence,
        )
        for index, (endpoint, limits) in enumerate(zip(settings.endpoints, known, strict=True))
    ]
    return Scheduler(run_limits, endpoints, ROUTES[settings.route], fence)


def _connections_ahead(settings: Settings, endpoint: EndpointSettings) -> int:
    """As many as a paced run needs in its first moments; one where no rate is set, since crowds form by themselves."""
    per_s = min(settings.requests_per_s, endpoint.requests_per_s)
    in_flight = min(settings.concurrency, endpoint.concurrency or settings.concurrency)
    return 1 if per_s == inf else max(1, min(round(per_s * AHEAD_S), in_flight, MOST_AHEAD))


def _open_outputs(settings: Settings) -> tuple[OutputFile, OutputFile]:
    save = OutputFile(settings.save, overwrite=settings.overwrite, force=settings.force, flag="--save")
    try:
        errors = _open_errors(settings, save)
    except BaseException:
        save.close()
        raise
    try:
        _check_side_files(save, errors)
        for output in (save, errors):
            _begin(output, settings)
    except BaseException:
        save.close()
        errors.close()
        raise
    return save, errors


def _check_side_files(save: OutputFile, errors: OutputFile) -> None:
    """Raise OutputBlockedError where a pipe or device is in the place of one, before anything changes."""
    for output, suffix in ((save, SETTINGS), (save, LIMITS), (save, POINTER), (errors, POINTER)):
        if output.is_resumable:
            check_side_file(f"{output.path}{suffix}")


def _open_errors(settings: Settings, save: OutputFile) -> OutputFile:
    """Open the file of errors; beside answers into a pipe it belongs to no run alone."""
    path = settings.errors_path
    if not save.is_resumable and not is_pipe(path):
        return SharedFile(path)
    options = {"overwrite": settings.overwrite, "force": settings.force, "waits_for_reader": False}
    return OutputFile(path, flag="--errors", **options)


def _keep_settings(settings: Settings, fence: Fence) -> None:
    with fence.around("saving the settings"):
        if (problem := keep_settings(settings)) is not None:
            _say(fence, problem)


def _begin(output: OutputFile, settings: Settings) -> None:
    """Empties an output that is started anew; else takes in what an earlier run could not write to it."""
    spool = Spool(output, settings.spool)
    if settings.overwrite:
        output.empty()
        spool.discard()
    else:
        spool.take_in(output)


def _find_finished(settings: Settings, save: OutputFile, errors: OutputFile) -> tuple[CompletedKeys, CompletedKeys]:
    """What earlier runs answered, and what they failed at once the errors to be tried again have left their file.

    So have those of a line that has an answer too. Where an equal line was answered, one that failed is worth a try.
    """
    answered = CompletedKeys.scan([settings.save] if save.is_resumable else [])
    errors.keep_only(lambda record: not (should_retry(record, settings.retry_errors) or answered.has_key_of(record)))
    return answered, CompletedKeys.scan([settings.errors_path] if errors.is_resumable else [])


async def _start_mocks(endpoints: Sequence[EndpointSettings], stack: AsyncExitStack) -> Sequence[EndpointSettings]:
    """Starts the built-in provider for every `mock:` endpoint and puts its real URL in."""
    if not any(endpoint.is_mock for endpoint in endpoints):
        return endpoints
    from llmblast.mocking.server import MockServer  # noqa: PLC0415 -- a server that real runs do not need
    from llmblast.mocking.settings import MockSettings  # noqa: PLC0415

    started = []
    for endpoint in endpoints:
        if not endpoint.is_mock:
            started.append(endpoint)
            continue
        mock_settings = MockSettings.from_query(endpoint.url.partition("?")[2])
        server = await stack.enter_async_context(MockServer(mock_settings))
        started.append(replace(endpoint, url=server.url, proxy=NO_PROXY))
    return started


def _open_channels(
    settings: Settings,
    endpoints: Sequence[EndpointSettings],
    keys: Sequence[EndpointKey],
    environ: Mapping[str, str],
    stack: AsyncExitStack,
) -> Sequence[Channel]:
    """Open a channel to each endpoint, which `stack` closes. Raises UsageError for what `make_target` cannot use."""
    open_channel = TRANSPORTS[settings.transport]
    channels: list[Channel] = []
    for endpoint, key, provider in zip(endpoints, keys, providers_of(settings.endpoints), strict=True):
        target = make_target(endpoint, settings.model, key.value, provider, environ)
        channel = open_channel(target, settings.timeout, settings.connect_timeout)
        stack.push_async_callback(channel.close)
        others = (*(target.proxy.secrets if target.proxy else ()), *secrets_in_query(endpoint.url))
        secrets = secrets_of(key.value, endpoint.headers, others)
        channels.append(RedactingChannel(channel, secrets) if secrets or key.can_refresh else channel)
    return channels


def _gives_up(max_errors: str | None) -> Callable[[Counters], bool]:
    if max_errors is None:
        return lambda counters: False
    bound, is_share = parse_max_errors(max_errors)
    if is_share:
        return lambda counters: counters.failed >= _FEWEST_FOR_A_SHARE and _failed_percent(counters) > bound
    return lambda counters: counters.failed > bound


_FEWEST_FOR_A_SHARE = 20
"""A share of a handful of lines says nothing: one failed first line would be 100 %."""


def _failed_percent(counters: Counters) -> float:
    return 100 * counters.failed / (counters.failed + counters.succeeded)
