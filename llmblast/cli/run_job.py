"""Run of the command line: a job with progress display, signals, tuned garbage collection and an exit code."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmblast.cli.loop import run_loop, tune_collector
from llmblast.cli.progress_mode import progress_mode
from llmblast.cli.report import Report
from llmblast.cli.signals import EXIT_OF_SIGNAL, ShutdownSignals, ShutdownStage, handle_signals
from llmblast.errors import DefectError, ExitCode, LlmblastError
from llmblast.job.defects import Defects
from llmblast.job.messages import shown
from llmblast.job.pipeline import Pipeline
from llmblast.job.pipeline_building import build_pipeline
from llmblast.job.run import MAX_VERDICT_CHARS, TEND_INTERVAL_S, Job
from llmblast.settings import Settings
from llmblast.watching import Display, NoDisplay, drive, make_display
from llmblast.watching.rates import Pace
from llmblast.watching.status_line import status_line


def run_job(settings: Settings, environ: Mapping[str, str], command: Sequence[str]) -> ExitCode:
    """Run one job whose settings have passed `run_preflight_checks`, and return its exit code. Raises LlmblastError.

    The summary quotes `command`, the command line, to tell how to continue.
    """
    defects = Defects(settings, environ)
    try:
        exit_code, output = run_loop(_run(settings, environ, command, defects))
    except LlmblastError:
        raise
    except Exception as error:  # noqa: BLE001 -- any defect becomes one sentence
        raise DefectError(defects.report(error)) from None
    sys.stdout.buffer.write(output)  # a full device is no defect: `main` reports it
    sys.stdout.flush()
    return exit_code


async def _run(
    settings: Settings, environ: Mapping[str, str], command: Sequence[str], defects: Defects
) -> tuple[ExitCode, bytes]:
    async with build_pipeline(settings, environ, defects) as pipeline:
        return await _ConsoleRun(settings, pipeline, command).run()


class _ConsoleRun:
    """One job with its display, its signals and its summary."""

    def __init__(self, settings: Settings, pipeline: Pipeline, command: Sequence[str]) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._tell = pipeline.defects.tell
        self._fence = pipeline.defects.fence
        self._report = Report(settings, pipeline, command)
        self._signals = ShutdownSignals(time.monotonic)
        self._pace = Pace(pipeline.counters, time.monotonic, pipeline.limits.allowance)
        self._job = Job(settings, pipeline, (self._show_progress, self._keep_pace))

    async def run(self) -> tuple[ExitCode, bytes]:
        """Run the job and print its summary; return the exit code and the bytes for standard output."""
        for note in self._pipeline.notes:
            self._tell(shown(note, MAX_VERDICT_CHARS, self._fence))
        tune_collector(self._settings.concurrency)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        with handle_signals(loop, self._on_signal, self._tell_status):
            ending = await self._job.run()
        return self._report.tell(ending)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the run after a failed callback of a timer, a signal or a connection; asyncio would print a traceback."""
        if (error := context.get("exception")) is not None and is_ours(context):
            self._job.fail_internal(error)
        elif loop.get_debug():
            loop.default_exception_handler(context)

    async def _show_progress(self) -> None:
        await drive(self._make_display(), self._fence, sys.stderr)

    def _make_display(self) -> Display:
        settings, pipeline = self._settings, self._pipeline
        with self._fence.around("the progress display"):
            return make_display(
                progress_mode(settings, sys.stderr),
                pipeline.counters,
                pipeline.limits,
                time.monotonic,
                sys.stderr,
                quiet=settings.quiet,
            )
        return NoDisplay()

    async def _keep_pace(self) -> None:
        while True:
            await asyncio.sleep(TEND_INTERVAL_S)
            with self._fence.around("the progress display"):
                self._pace.snapshot()  # the status line shows current rates

    def _on_signal(self, number: signal.Signals) -> None:
        stage = self._signals.on_signal(number)
        if stage is ShutdownStage.DRAIN:
            self._drain(number)
        elif stage is ShutdownStage.ABORT_IN_FLIGHT:
            self._job.abort_in_flight()
        elif stage is ShutdownStage.EXIT:
            os._exit(EXIT_OF_SIGNAL[number])  # a reader that never reads delays even the closing of a pipe

    def _drain(self, number: signal.Signals) -> None:
        in_flight = self._job.drain(EXIT_OF_SIGNAL[number], "interrupted")
        if in_flight:
            again = "press Ctrl-C again" if number is signal.SIGINT else "send the signal again"
            self._tell(
                f"stopping: waiting up to {self._settings.grace:g} s for {in_flight:,} requests in flight; "
                f"{again} to drop them (they may be billed)"
            )

    def _tell_status(self) -> None:
        self._job.refresh_counters()
        with self._fence.around("the status line"):
            self._tell(status_line(self._pace.snapshot(), self._pipeline.counters, self._pipeline.limits))


def is_ours(context: Mapping[str, Any]) -> bool:
    """Return whether a failed callback ends the run; asyncio tries a failed `accept` of the mock server again."""
    return not str(context.get("message", "")).startswith("socket.accept()")
