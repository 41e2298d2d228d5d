"""Run with stages on the command line: their jobs with one display, the signals, and a summary for each stage."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from llmblast.cli.loop import run_loop, tune_collector
from llmblast.cli.progress_mode import progress_mode
from llmblast.cli.report import Report, command_to_continue
from llmblast.cli.run_job import is_ours
from llmblast.cli.signals import EXIT_OF_SIGNAL, ShutdownSignals, ShutdownStage, handle_signals
from llmblast.errors import DefectError, ExitCode, LlmblastError
from llmblast.input_paths import STDIN
from llmblast.job.defects import Defects, write_to_stderr
from llmblast.job.messages import shown
from llmblast.job.run import MAX_VERDICT_CHARS, TEND_INTERVAL_S, Ending, Job
from llmblast.job.stages import FINISHED, OpenStage, StageJobs, open_stages
from llmblast.stage_loading import StageSettings
from llmblast.watching import Display, NoDisplay, StageLines, StageView, drive, make_stage_display


def run_stages(stages: Sequence[StageSettings], environ: Mapping[str, str], command: Sequence[str]) -> ExitCode:
    """Run the stages, which have passed `prepare_stages`, and return the exit code. Raises LlmblastError.

    The summary quotes `command`, the command line, to tell how to continue.
    """
    defects = {stage.name: Defects(stage.settings, environ, tell=partial(_tell_of, stage.name)) for stage in stages}
    try:
        exit_code, output = run_loop(_run(stages, environ, command, defects))
    except LlmblastError:
        raise
    except Exception as error:  # noqa: BLE001 -- any defect becomes one sentence
        raise DefectError(defects[stages[0].name].report(error)) from None
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    return exit_code


async def _run(
    stages: Sequence[StageSettings], environ: Mapping[str, str], command: Sequence[str], defects: Mapping[str, Defects]
) -> tuple[ExitCode, bytes]:
    async with open_stages(stages, environ, lambda stage: defects[stage.name]) as opened:
        return await _ConsoleStages(opened, command).run()


class _ConsoleStages:
    """The jobs of all stages with their display, signals and summaries."""

    def __init__(self, stages: Sequence[OpenStage], command: Sequence[str]) -> None:
        self._stages = stages
        self._command = command
        first, last = stages[0], stages[-1]
        self._settings = last.settings
        self._can_resume = STDIN not in first.settings.all_inputs and last.pipeline.can_resume
        self._fence = first.pipeline.defects.fence
        self._signals = ShutdownSignals(time.monotonic)
        views = [StageView(stage.name, stage.pipeline.counters, stage.pipeline.limits) for stage in stages]
        self._views = views
        self._lines = StageLines(views, time.monotonic)
        jobs = [Job(stage.settings, stage.pipeline) for stage in stages]
        self._jobs = StageJobs(stages, jobs, self._tell_early_end)

    async def run(self) -> tuple[ExitCode, bytes]:
        """Run all stages and print their summaries; return the exit code and the bytes for standard output."""
        for stage in self._stages:
            for note in stage.pipeline.notes:
                stage.pipeline.defects.tell(shown(note, MAX_VERDICT_CHARS, self._fence))
        tune_collector(sum(stage.settings.concurrency for stage in self._stages))
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        helpers = [asyncio.create_task(helper) for helper in (self._show_progress(), self._keep_pace())]
        try:
            with handle_signals(loop, self._on_signal, self._tell_status):
                endings = await self._jobs.run()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        return self._report(endings)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if (error := context.get("exception")) is not None and is_ours(context):
            self._jobs.fail_internal(error)
        elif loop.get_debug():
            loop.default_exception_handler(context)

    async def _show_progress(self) -> None:
        await drive(self._make_display(), self._fence, sys.stderr)

    def _make_display(self) -> Display:
        mode = progress_mode(self._settings, sys.stderr)
        with self._fence.around("the progress display"):
            return make_stage_display(mode, self._views, time.monotonic, sys.stderr, quiet=self._settings.quiet)
        return NoDisplay()

    async def _keep_pace(self) -> None:
        while True:
            await asyncio.sleep(TEND_INTERVAL_S)
            with self._fence.around("the progress display"):
                self._lines.measure()  # the status lines show current rates

    def _on_signal(self, number: signal.Signals) -> None:
        stage = self._signals.on_signal(number)
        if stage is ShutdownStage.DRAIN:
            self._drain(number)
        elif stage is ShutdownStage.ABORT_IN_FLIGHT:
            self._jobs.abort_in_flight()
        elif stage is ShutdownStage.EXIT:
            os._exit(EXIT_OF_SIGNAL[number])

    def _drain(self, number: signal.Signals) -> None:
        in_flight = self._jobs.drain(EXIT_OF_SIGNAL[number], "interrupted")
        if in_flight:
            again = "press Ctrl-C again" if number is signal.SIGINT else "send the signal again"
            grace_s = max(stage.settings.grace for stage in self._stages)
            write_to_stderr(
                f"stopping: waiting up to {grace_s:g} s for {in_flight:,} requests in flight; "
                f"{again} to drop them (they may be billed)"
            )

    def _tell_status(self) -> None:
        self._jobs.refresh_counters()
        with self._fence.around("the status line"):
            write_to_stderr("\n".join(self._lines.measure()))

    def _tell_early_end(self, stage: OpenStage, ending: Ending) -> None:
        """Tell at once why a stage has ended before its time: the others may go on for long."""
        if stage is not self._stages[-1] and not self._settings.quiet:
            stage.pipeline.defects.tell(shown(ending.verdict, MAX_VERDICT_CHARS, self._fence))

    def _report(self, endings: Sequence[Ending]) -> tuple[ExitCode, bytes]:
        exit_code = self._jobs.exit_code(endings)
        endings = [self._ending_of(index, ending) for index, ending in enumerate(endings)]
        reports = [self._report_of(stage) for stage in self._stages]
        parts = list(zip(self._stages, reports, endings, strict=True))
        if not self._settings.quiet and exit_code is not ExitCode.READER_GONE:
            write_to_stderr(
                "\n\n".join(
                    f"{self._heading(index)}\n{report.as_text(end)}" for index, (_, report, end) in enumerate(parts)
                )
            )
            can_go_on = all(stage.pipeline.goes_on_by_same_command for stage in self._stages)
            if exit_code not in FINISHED and self._can_resume and can_go_on:
                write_to_stderr(f"\nnext: {command_to_continue(self._command)}")
        else:
            for stage, report, ending in parts:
                is_due_to_reader = exit_code is ExitCode.READER_GONE and stage.name in self._jobs.stopped
                if ending.exit_code is not ExitCode.OK and not is_due_to_reader:
                    write_to_stderr(f"llmblast: {stage.name}: {report.verdict(ending)}")
        if not self._settings.json:
            return exit_code, b""
        values = [{"name": stage.name, **report.as_values(ending)} for stage, report, ending in parts]
        return exit_code, orjson.dumps({"exit_code": int(exit_code), "stages": values}) + b"\n"

    def _report_of(self, stage: OpenStage) -> Report:
        is_last = stage is self._stages[-1]
        says_next = FINISHED if is_last else (ExitCode.SOME_FAILED,)
        return Report(stage.settings, stage.pipeline, self._command, says_next)

    def _ending_of(self, index: int, ending: Ending) -> Ending:
        """Return the ending of a stage; one without lines has not finished while they wait in a stage before it."""
        before = [stage.name for stage in self._stages[:index] if stage.pipeline.counters.left_pending]
        if not before or ending.exit_code is not ExitCode.OK or self._stages[index].pipeline.counters.lines_read:
            return ending
        return replace(ending, verdict=f"there are no lines yet: they wait in stage {before[0]}")

    def _heading(self, index: int) -> str:
        """Return the name of a stage, with the number of lines that did not get there."""
        heading = f"stage {self._stages[index].name}"
        if not index:
            return heading
        before = self._stages[index - 1]
        counters = before.pipeline.counters
        if waiting := counters.left_pending:
            lines = "1 line waits" if waiting == 1 else f"{waiting:,} lines wait"
            heading += f": {lines} in stage {before.name}"
        failed = counters.failed + counters.skipped_failed
        if not failed:
            return heading
        lines = "1 line has" if failed == 1 else f"{failed:,} lines have"
        return f"{heading}: {lines} no answer in stage {before.name}"


def _tell_of(stage: str, text: str) -> None:
    write_to_stderr(f"{stage}: {text}")
