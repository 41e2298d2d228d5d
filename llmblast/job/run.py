"""Run: drives the stations from the first line to the last record, and says how it ended."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import orjson

from llmblast.errors import (
    DefectError,
    ExitCode,
    InputDamagedError,
    LlmblastError,
    OutputFailedError,
)
from llmblast.hiding import shown_command
from llmblast.job.closing_words import next_command, next_when, output_files, say_finished, say_missing_keys
from llmblast.job.defects import Defects
from llmblast.job.key_refresh import refresh_regularly
from llmblast.job.loop import run_loop, tune_collector
from llmblast.job.progress_mode import progress_mode
from llmblast.job.signals import EXIT_OF_SIGNAL, Wish, Wishes, listening
from llmblast.job.stations import Stations, open_stations, shown
from llmblast.pipes import STDOUT
from llmblast.records import Request
from llmblast.settings import Settings
from llmblast.watching import Display, NoDisplay, Summary, Timeline, drive, make_display
from llmblast.watching.progress import status_line
from llmblast.watching.rates import Pace

TEND_INTERVAL_S = 0.25
TIMELINE_INTERVAL_S = 1.0
WARM_UP_S = 0.3
"""How long the first request waits for connections. Those that take longer are opened beside the run."""
READER_GONE_GRACE_S = 1.0
"""What is in flight may take no longer when nothing reads the answers any more: `llmblast run -o - | head` ends."""
MAX_CLOSINGS = 2
"""After a defect, closing the outputs is tried once more: what waits in memory may be written then."""
_LONGEST_VERDICT = 4000
_LOG_COLUMNS = 120
_ANEW = ("--overwrite", "--force")


def run(settings: Settings, environ: Mapping[str, str], command: Sequence[str]) -> ExitCode:
    """Run one job whose settings have passed `run_preflight_checks`. `command` is the user's command line, for the
    advice at the end. Raises LlmblastError.
    """
    defects = Defects(settings, environ)
    try:
        exit_code, told = run_loop(_run(settings, environ, command, defects))
    except LlmblastError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever it is, a person gets a sentence
        raise DefectError(defects.report(error)) from None
    sys.stdout.buffer.write(told)  # a full device is no defect: `cli` says so
    sys.stdout.flush()
    return exit_code


async def _run(
    settings: Settings, environ: Mapping[str, str], command: Sequence[str], defects: Defects
) -> tuple[ExitCode, bytes]:
    async with open_stations(settings, environ, defects) as stations:
        return await Job(settings, stations, command).run()


class Job:
    """One run over open stations."""

    def __init__(self, settings: Settings, stations: Stations, command: Sequence[str]) -> None:
        self._settings = settings
        self._stations = stations
        self._fence = stations.defects.fence
        words = [word for word in command if word not in _ANEW]  # to go on is not to start anew
        self._command = shlex.join(shown_command(words))
        self._started_s = time.monotonic()
        self._input_error: InputDamagedError | None = None
        self._output_error: OutputFailedError | None = None
        self._is_written = False
        self._wishes = Wishes(time.monotonic)
        self._pace = Pace(stations.counters, time.monotonic, stations.limits.allowance)
        self._cut_short = asyncio.Event()

    async def run(self) -> tuple[ExitCode, bytes]:
        """Runs to the end and reports; returns the exit code, and what is for standard output."""
        for note in self._stations.notes:
            self._tell(shown(note, _LONGEST_VERDICT, self._fence))
        tune_collector(self._settings.concurrency)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        writing = self._start(self._stations.writer.run())
        with listening(loop, self._on_signal, self._tell_status):
            try:
                await self._send_everything()
            finally:
                await self._close_writer()
                await asyncio.wait([writing])
                await asyncio.to_thread(self._stations.keep_limits)
        return self._report()

    def _start(self, helper: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task beside the run; a defect in it ends the run."""
        task = asyncio.create_task(helper)
        task.add_done_callback(self._on_helper_done)
        return task

    def _on_helper_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stations.engine.fail_internal(error)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of a timer, a signal or a connection has failed; by default, asyncio prints a traceback."""
        if (error := context.get("exception")) is not None and _is_ours(context):
            self._stations.engine.fail_internal(error)
        elif loop.get_debug():
            loop.default_exception_handler(context)

    async def _send_everything(self) -> None:
        stations = self._stations
        display = self._make_display()
        ahead = zip(stations.channels, stations.connections_ahead, strict=True)
        warm_ups = [asyncio.create_task(channel.warm_up(connections)) for channel, connections in ahead]
        shows = drive(display, self._fence, sys.stderr)
        helpers = [self._start(helper) for helper in (shows, self._tend(), self._end_in_time())]
        if stations.timeline is not None:
            helpers.append(self._start(self._draw_timeline(stations.timeline)))
        helpers += self._start_key_refreshes()
        try:
            await asyncio.wait(warm_ups, timeout=WARM_UP_S)
            outcomes = [warm_up.result() if warm_up.done() else None for warm_up in warm_ups]
            if not all(outcomes):  # with nobody to send to, the first sends end the run at once
                for index, reply in enumerate(outcomes):
                    if reply is not None:
                        stations.engine.unreachable(index, reply.detail)
            await self._feed_unless_stopped()
        except Exception as error:  # noqa: BLE001 -- the engine reports it
            stations.engine.fail_internal(error)
        try:
            await stations.engine.wait_until_done()
        finally:
            await stations.engine.cut_short()
            for task in (*helpers, *warm_ups):
                task.cancel()
            await asyncio.gather(*helpers, *warm_ups, return_exceptions=True)

    def _make_display(self) -> Display:
        settings, stations = self._settings, self._stations
        with self._fence.around("the progress display"):
            return make_display(
                progress_mode(settings, sys.stderr),
                stations.counters,
                stations.limits,
                time.monotonic,
                sys.stderr,
                quiet=settings.quiet,
            )
        return NoDisplay()

    async def _feed_unless_stopped(self) -> None:
        """Feeds the engine; a stop ends the feed even while it waits for a pipe."""
        feed = asyncio.create_task(self._feed())
        stop = asyncio.create_task(self._stations.engine.stopping.wait())
        await asyncio.wait({feed, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not feed.done():
            feed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feed

    async def _feed(self) -> None:
        engine = self._stations.engine
        try:
            async for batch in self._stations.input_reader.batches():
                for item in batch:
                    if isinstance(item, Request):
                        engine.accept(item)
                    else:
                        engine.refuse(item)
                engine.pump()
                await asyncio.sleep(0)  # what was admitted leaves now, not after some thousand lines
                await engine.room()
        except InputDamagedError as error:
            self._input_error = error
            self._stations.counters.input_ended = True
        except Exception as error:  # noqa: BLE001 -- the engine reports it
            engine.fail_internal(error)

    async def _draw_timeline(self, timeline: Timeline) -> None:
        with self._fence.around("the timeline"):
            while True:
                await asyncio.sleep(TIMELINE_INTERVAL_S)
                self._refresh_counters()
                timeline.tick()

    def _refresh_counters(self) -> None:
        with self._fence.around("the counters"):
            self._stations.engine.refresh_counters()

    def _start_key_refreshes(self) -> Sequence[asyncio.Task[None]]:
        stations = self._stations
        return [
            asyncio.create_task(refresh_regularly(key, channel, endpoint.key_refresh, asyncio.sleep, self._notice))
            for endpoint, key, channel in zip(self._settings.endpoints, stations.keys, stations.channels, strict=True)
            if endpoint.key_refresh is not None and key.can_refresh
        ]

    async def _tend(self) -> None:
        """What is looked at a few times a second instead of at every request."""
        stations = self._stations
        while True:
            await asyncio.sleep(TEND_INTERVAL_S)
            now = time.monotonic()
            for channel in stations.channels:
                channel.sweep(now)
            self._refresh_counters()
            stations.engine.check_waits()
            with self._fence.around("the progress display"):
                self._pace.snapshot()  # whoever asks for the status wants rates of now

    async def _end_in_time(self) -> None:
        """Ends the run after `--max-time`, and what is in flight `--grace` seconds after any stop."""
        engine, settings = self._stations.engine, self._settings
        if settings.max_time is not None:
            engine.wait_limit.ends_s = time.monotonic() + settings.max_time
        try:
            async with asyncio.timeout(settings.max_time):  # wait_for would miss being cancelled at that very moment
                await engine.stopping.wait()
        except TimeoutError:
            engine.stop(ExitCode.STOPPED, f"stopped after --max-time {settings.max_time:g} s")
        except Exception as error:  # noqa: BLE001 -- the engine reports it; the grace must end all the same
            engine.fail_internal(error)
        with contextlib.suppress(TimeoutError):
            is_reader_gone = engine.exit_code is ExitCode.READER_GONE
            async with asyncio.timeout(min(settings.grace, READER_GONE_GRACE_S) if is_reader_gone else settings.grace):
                await self._cut_short.wait()
        await engine.cut_short()

    def _on_signal(self, number: signal.Signals) -> None:
        wish = self._wishes.heard(number)
        if wish is Wish.DRAIN:
            self._drain(number)
        elif wish is Wish.CUT_SHORT:
            self._cut_short.set()
        elif wish is Wish.EXIT:
            os._exit(EXIT_OF_SIGNAL[number])  # a reader that never reads holds up even the closing of our pipe

    def _drain(self, number: signal.Signals) -> None:
        self._stations.writer.hurry()
        self._refresh_counters()
        in_flight = self._stations.counters.in_flight
        self._stations.engine.stop(EXIT_OF_SIGNAL[number], "interrupted")
        if in_flight:
            again = "press Ctrl-C again" if number is signal.SIGINT else "send the signal again"
            self._tell(
                f"stopping: waiting up to {self._settings.grace:g} s for {in_flight:,} requests in flight; "
                f"{again} to drop them (they may be billed)"
            )

    def _tell_status(self) -> None:
        self._refresh_counters()
        with self._fence.around("the status line"):
            self._tell(status_line(self._pace.snapshot(), self._stations.counters, self._stations.limits))

    async def _close_writer(self) -> None:
        for _ in range(MAX_CLOSINGS):
            try:
                await self._stations.writer.close()
            except OutputFailedError as error:
                self._output_error = error
            except Exception as error:  # noqa: BLE001 -- the engine reports it
                self._stations.engine.fail_internal(error)
                continue
            self._is_written = True
            return

    def _judge(self) -> tuple[ExitCode, str]:
        """The exit code and one line for a person."""
        engine, counters = self._stations.engine, self._stations.counters
        if engine.defect is not None:
            return ExitCode.DEFECT, self._say_defect(engine.reason)
        if self._output_error is not None:
            return self._output_error.exit_code, str(self._output_error)
        if engine.exit_code is not None:
            return engine.exit_code, engine.reason + self._missing_keys() + self._cannot_resume()
        if self._input_error is not None:
            return self._input_error.exit_code, str(self._input_error)
        return say_finished(self._settings, counters, self._stations.failed_elsewhere())

    def _missing_keys(self) -> str:
        keys = [key.value for key in self._stations.keys]
        return say_missing_keys(self._settings, keys, self._stations.counters)

    def _cannot_resume(self) -> str:
        if self._stations.can_resume:
            return ""
        name = "standard output" if self._settings.save == STDOUT else self._settings.save
        return f"; {name} cannot be resumed: name a file with --save to go on after a stop"

    def _say_defect(self, reason: str) -> str:
        if self._output_error is not None:
            return f"{reason}. {self._output_error}"
        if not self._stations.can_resume:
            return reason + self._cannot_resume()
        written = "what was received is written" if self._is_written else "not all that was received could be written"
        return f"{reason}; {written}: run the same command again to go on"

    def _report(self) -> tuple[ExitCode, bytes]:
        self._refresh_counters()
        with self._fence.around("the timeline"):
            self._finish_timeline()
        exit_code, verdict = self._judge()
        counters = self._stations.counters
        summary = Summary(
            counters,
            time.monotonic() - self._started_s,
            self._stations.limits,
            verdict,
            next_command(self._settings, counters, exit_code, self._command, can_resume=self._stations.can_resume),
            next_when(counters, exit_code, has_endpoints=self._stations.engine.has_endpoints),
            output_files(self._settings, *self._stations.records_before),
        )
        if not self._settings.quiet and exit_code is not ExitCode.READER_GONE:
            self._tell(self._text_of(summary))
        elif exit_code is not ExitCode.OK:
            self._tell(f"llmblast: {shown(verdict, _LONGEST_VERDICT, self._fence)}")
        if not self._settings.json:
            return exit_code, b""
        return exit_code, orjson.dumps({"exit_code": int(exit_code), **self._values_of(summary)}) + b"\n"

    def _text_of(self, summary: Summary) -> str:
        with self._fence.around("the summary"):
            return summary.as_text(_width())
        return shown(summary.verdict, _LONGEST_VERDICT, self._fence)

    def _values_of(self, summary: Summary) -> dict[str, object]:
        with self._fence.around("the summary"):
            return summary.as_json()
        return {"verdict": shown(summary.verdict, _LONGEST_VERDICT, self._fence)}

    def _finish_timeline(self) -> None:
        timeline = self._stations.timeline
        if timeline is None:
            return
        timeline.tick()
        timeline.close()
        if timeline.failure:
            self._tell(timeline.failure)

    def _notice(self, text: str) -> None:
        self._tell(shown(text, _LONGEST_VERDICT, self._fence))

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone; the files are what counts
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _is_ours(context: Mapping[str, Any]) -> bool:
    """Return whether a failed callback is no server's that has run out of files: asyncio tries that again."""
    return not str(context.get("message", "")).startswith("socket.accept()")


def _width() -> int:
    """Of the terminal that the summary goes to, if it is one; in a log or a mail lines may be longer."""
    wanted = os.environ.get("COLUMNS", "")
    try:
        columns = int(wanted) if wanted.isdecimal() else os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or _LOG_COLUMNS
