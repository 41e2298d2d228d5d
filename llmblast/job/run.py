"""Run the pipeline from the first line to the last record, and return how it ended.

The job is headless: a source, a sink and settings go in, an `Ending` comes out. Signals, display and summary belong to
`cli`, the event loop to the caller.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from llmblast.errors import ExitCode, InputDamagedError, OutputFailedError, UsageError
from llmblast.job.batch_parser import Batch
from llmblast.job.closing_words import say_all_taken, say_finished, say_missing_keys
from llmblast.job.feeds import Feed
from llmblast.job.input_reader import InputReader
from llmblast.job.key_refresh import refresh_regularly
from llmblast.job.messages import shown
from llmblast.job.pipeline import Pipeline
from llmblast.models import Request
from llmblast.pipes import STDOUT
from llmblast.reading.prompts import PromptsError
from llmblast.settings import Settings
from llmblast.watching import Timeline

TEND_INTERVAL_S = 0.25
TIMELINE_INTERVAL_S = 1.0
WARM_UP_S = 0.3
"""Maximum wait of the first request for connections. Slower ones are opened while the run goes on."""
READER_GONE_GRACE_S = 1.0
"""The grace of requests in flight once the reader of the answers is gone: `llmblast run -o - | head` ends."""
MAX_CLOSINGS = 2
"""Attempts to close the outputs after a defect: the second one may write what still waits in memory."""
MAX_VERDICT_CHARS = 4000

Helper = Callable[[], Coroutine[Any, Any, None]]
"""Make a coroutine that runs until the last request has ended, and is cancelled then."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: `verdict` is one line for a person."""

    exit_code: ExitCode
    verdict: str
    duration_s: float
    prompts_error: BaseException | None = None
    """What the caller's iterable of prompts raised, if that ended the run."""


class Job:
    """One run of an open pipeline."""

    def __init__(self, settings: Settings, pipeline: Pipeline, helpers: Sequence[Helper] = ()) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._helpers = helpers
        self._fence = pipeline.defects.fence
        self._started_s = time.monotonic()
        self._input_error: InputDamagedError | None = None
        self._prompts_error: BaseException | None = None
        self._output_error: OutputFailedError | None = None
        self._is_written = False
        self._abort_asked = asyncio.Event()
        self._has_deadline = settings.by is not None or settings.deadline is not None

    async def run(self) -> Ending:
        """Run until every line has its outcome or the run is stopped, then close the outputs."""
        writing = self._start(self._pipeline.writer.run())
        try:
            await self._send_everything()
        finally:
            await self._close_writer()
            await asyncio.wait([writing])
            await asyncio.to_thread(self._pipeline.keep_limits)
            await self._finish_batches()
        return self._end()

    def drain(self, exit_code: ExitCode, reason: str) -> int:
        """Send nothing more; let the requests in flight finish within the grace. Return their number."""
        self._pipeline.writer.stop_waiting()
        self.refresh_counters()
        in_flight = self._pipeline.counters.in_flight
        self._pipeline.engine.stop(exit_code, reason)
        return in_flight

    def abort_in_flight(self) -> None:
        """Abort the requests in flight of a run that is stopping."""
        self._abort_asked.set()

    def fail_internal(self, error: BaseException) -> None:
        """End the run because of a defect."""
        self._pipeline.engine.fail_internal(error)

    def refresh_counters(self) -> None:
        """Bring totals and gauges up to date."""
        with self._fence.around("the counters"):
            self._pipeline.engine.refresh_counters()

    def _start(self, helper: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a background task; an exception in it ends the run as a defect."""
        task = asyncio.create_task(helper)
        task.add_done_callback(self._on_helper_done)
        return task

    def _on_helper_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._pipeline.engine.fail_internal(error)

    async def _send_everything(self) -> None:
        pipeline = self._pipeline
        ahead = zip(pipeline.channels, pipeline.connections_ahead, strict=True)
        warm_ups = [asyncio.create_task(channel.warm_up(connections)) for channel, connections in ahead]
        helpers = [
            self._start(helper()) for helper in (*self._helpers, self._tend, self._follow_writer, self._end_in_time)
        ]
        if pipeline.timeline is not None:
            helpers.append(self._start(self._draw_timeline(pipeline.timeline)))
        helpers += self._start_key_refreshes()
        try:
            try:
                await asyncio.wait(warm_ups, timeout=WARM_UP_S)
                outcomes = [warm_up.result() if warm_up.done() else None for warm_up in warm_ups]
                if not all(outcomes):  # if no endpoint can be reached, the first sends end the run at once
                    for index, reply in enumerate(outcomes):
                        if reply is not None:
                            pipeline.engine.unreachable(index, reply.detail)
                await self._feed_unless_stopped()
            except Exception as error:  # noqa: BLE001 -- the engine reports it
                pipeline.engine.fail_internal(error)
            await pipeline.engine.wait_until_done()
        finally:
            await pipeline.engine.abort_in_flight()
            for task in (*helpers, *warm_ups):
                task.cancel()
            await asyncio.gather(*helpers, *warm_ups, return_exceptions=True)

    async def _feed_unless_stopped(self) -> None:
        """Read the input and feed the engine. A stop ends that, even while a read waits for a pipe."""
        feed = asyncio.create_task(self._feed())
        stop = asyncio.create_task(self._pipeline.engine.end.stopping.wait())
        try:
            await asyncio.wait({feed, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            feed.cancel()
            await asyncio.wait({feed, stop})
        if not feed.cancelled():
            await feed

    async def _feed(self) -> None:
        """Read all inputs at the same time, and what was read ahead or came back, once there is any."""
        others = [self._pipeline.waiting, *([] if self._pipeline.returned is None else [self._pipeline.returned])]
        waiting = [asyncio.create_task(self._feed_from(feed)) for feed in others]
        try:
            deferred = [self._feed_from(feed) for feed in self._pipeline.feeds if feed.is_deferred]
            await asyncio.gather(self._feed_immediate(), *deferred)
            self._pipeline.read_ahead.end_inputs()
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    async def _feed_immediate(self) -> None:
        await asyncio.gather(*[self._feed_from(feed) for feed in self._pipeline.feeds if not feed.is_deferred])
        self._pipeline.engine.end_immediate()

    async def _feed_from(self, feed: Feed) -> None:
        engine = self._pipeline.engine
        try:
            async for batch in feed.batches:
                for item in batch:
                    if isinstance(item, Request):
                        engine.accept(item)
                    else:
                        engine.refuse(item)
                engine.dispatch_ready()
                await asyncio.sleep(0)  # what was admitted leaves now, not after some thousand lines
                if feed.reader is not None:
                    self._count_deadlines(feed.reader, batch)
                    await self._hold_back(feed.reader, is_deferred=feed.is_deferred)
        except PromptsError as error:
            self._prompts_error = error.error
            engine.stop(ExitCode.INPUT_DAMAGED, str(error))
        except UsageError as error:
            engine.stop(ExitCode.USAGE, str(error))
        except InputDamagedError as error:
            self._input_error = self._input_error or error
            if feed.reader is not None:
                feed.reader.end()
        except OutputFailedError as error:
            engine.stop(error.exit_code, str(error))
        except Exception as error:  # noqa: BLE001 -- the engine reports it
            engine.fail_internal(error)

    def _count_deadlines(self, reader: InputReader, batch: Batch) -> None:
        """Count the deadlines of lines that were read; read-ahead counts those that it is asked for."""
        if self._pipeline.read_ahead.is_open or not (self._has_deadline or reader.has_other_terms):
            return
        for item in batch:
            if isinstance(item, Request):
                self._pipeline.deadlines.on_read(item.terms)

    async def _hold_back(self, reader: InputReader, *, is_deferred: bool) -> None:
        """Let a reader wait for room in the queue, or write what waits on disk."""
        engine, read_ahead = self._pipeline.engine, self._pipeline.read_ahead
        needs_all = reader.has_other_terms or self._settings.share
        if needs_all and not read_ahead.is_open and not self._settings.ordered:
            read_ahead.open()
            engine.lift_pressure(read_ahead.on_sent)
        if read_ahead.is_open:
            await read_ahead.settle()
            return
        await engine.room(is_deferred=is_deferred)
        if reader.has_other_terms:  # in a run that keeps the order of the input
            await engine.room(is_deferred=not is_deferred)

    async def _draw_timeline(self, timeline: Timeline) -> None:
        with self._fence.around("the timeline"):
            while True:
                await asyncio.sleep(TIMELINE_INTERVAL_S)
                self.refresh_counters()
                timeline.tick()

    def _start_key_refreshes(self) -> Sequence[asyncio.Task[None]]:
        pipeline = self._pipeline
        return [
            asyncio.create_task(refresh_regularly(key, channel, endpoint.key_refresh, asyncio.sleep, self._notice))
            for endpoint, key, channel in zip(self._settings.endpoints, pipeline.keys, pipeline.channels, strict=True)
            if endpoint.key_refresh is not None and key.can_refresh
        ]

    async def _tend(self) -> None:
        """Run periodic maintenance: timeouts, idle connections, gauges, long waits."""
        pipeline = self._pipeline
        while True:
            await asyncio.sleep(TEND_INTERVAL_S)
            now = time.monotonic()
            for channel in pipeline.channels:
                channel.sweep(now)
                if pipeline.engine.is_draining:
                    channel.close_idle()
            self.refresh_counters()
            pipeline.engine.check_waits()
            with self._fence.around("the forecast of deadlines"):
                pipeline.forecast.look()
            if self._has_read_immediate():
                pipeline.engine.end_immediate()

    def _has_read_immediate(self) -> bool:
        """Return whether no more immediate lines are expected."""
        readers = (feed.reader for feed in self._pipeline.feeds if not feed.is_deferred)
        have_ended = all(reader is None or reader.has_ended for reader in readers)
        return have_ended and not self._pipeline.read_ahead.has_immediate

    async def _follow_writer(self) -> None:
        """Go on sending when the writer has room again, and stop the run when an output has failed."""
        writer, engine = self._pipeline.writer, self._pipeline.engine
        while True:
            await writer.changed.wait()
            writer.changed.clear()
            if writer.failure is not None:
                engine.stop(writer.failure.exit_code, str(writer.failure))
            engine.dispatch_ready()

    async def _end_in_time(self) -> None:
        """End the run after `--max-time`; abort the requests in flight `--grace` seconds after any stop."""
        engine, settings = self._pipeline.engine, self._settings
        if settings.max_time is not None:
            engine.wait_limit.ends_s = time.monotonic() + settings.max_time
        try:
            async with asyncio.timeout(settings.max_time):  # wait_for would miss being cancelled at that very moment
                await engine.end.stopping.wait()
        except TimeoutError:
            engine.stop(ExitCode.STOPPED, f"stopped after --max-time {settings.max_time:g} s")
        except Exception as error:  # noqa: BLE001 -- the engine reports it; the grace must end all the same
            engine.fail_internal(error)
        with contextlib.suppress(TimeoutError):
            is_reader_gone = engine.end.exit_code is ExitCode.READER_GONE
            async with asyncio.timeout(min(settings.grace, READER_GONE_GRACE_S) if is_reader_gone else settings.grace):
                await self._abort_asked.wait()
        await engine.abort_in_flight()

    async def _finish_batches(self) -> None:
        """Forget the batches of a run in which every line got its record."""
        sends, engine = self._pipeline.batch_sends, self._pipeline.engine
        if sends is not None and engine.end.exit_code is None and self._is_written:
            try:
                await asyncio.to_thread(sends.finish)
            except OSError as error:
                self._notice(f"the journal of batches cannot be written: {error.strerror}; the next run tries it again")

    async def _close_writer(self) -> None:
        for _ in range(MAX_CLOSINGS):
            try:
                await self._pipeline.writer.close()
            except OutputFailedError as error:
                self._output_error = error
            except Exception as error:  # noqa: BLE001 -- the engine reports it
                self._pipeline.engine.fail_internal(error)
                continue
            self._is_written = True
            return

    def _end(self) -> Ending:
        self.refresh_counters()
        with self._fence.around("the timeline"):
            self._finish_timeline()
        if self._pipeline.engine.end.exit_code is None and self._input_error is None:
            self._pipeline.tell_unused()
        exit_code, verdict = self._judge()
        return Ending(exit_code, verdict, time.monotonic() - self._started_s, self._prompts_error)

    def _judge(self) -> tuple[ExitCode, str]:
        """Return the exit code and the verdict, one line for a person."""
        engine, counters = self._pipeline.engine, self._pipeline.counters
        if engine.end.defect is not None:
            return ExitCode.DEFECT, self._say_defect(engine.end.reason)
        if self._output_error is not None:
            return self._output_error.exit_code, str(self._output_error)
        if engine.end.exit_code is not None:
            sends = self._pipeline.batch_sends
            batches = "" if sends is None else sends.words_at_stop()
            return engine.end.exit_code, engine.end.reason + batches + self._missing_keys() + self._cannot_resume()
        if self._input_error is not None:
            return self._input_error.exit_code, str(self._input_error)
        if self._pipeline.has_files:
            return say_finished(self._settings, counters, self._pipeline.failed_elsewhere())
        return say_all_taken(counters)

    def _missing_keys(self) -> str:
        keys = [key.value for key in self._pipeline.keys]
        return say_missing_keys(self._settings, keys, self._pipeline.counters)

    def _cannot_resume(self) -> str:
        if self._pipeline.can_resume or not self._pipeline.has_files:
            return ""
        name = "standard output" if self._settings.save == STDOUT else self._settings.save
        return f"; {name} cannot be resumed: name a file with --save to go on after a stop"

    def _say_defect(self, reason: str) -> str:
        if self._output_error is not None:
            return f"{reason}. {self._output_error}"
        if not self._pipeline.can_resume:
            return reason + self._cannot_resume()
        written = "what was received is written" if self._is_written else "not all that was received could be written"
        return f"{reason}; {written}: run the same command again to go on"

    def _finish_timeline(self) -> None:
        timeline = self._pipeline.timeline
        if timeline is None:
            return
        timeline.tick()
        timeline.close()
        if timeline.failure:
            self._pipeline.defects.tell(timeline.failure)

    def _notice(self, text: str) -> None:
        self._pipeline.defects.tell(shown(text, MAX_VERDICT_CHARS, self._fence))
