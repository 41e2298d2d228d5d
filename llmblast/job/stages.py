"""Stages: run several jobs at once, each of which reads the records that the one before it writes.

Each stage is an ordinary run with outputs of its own, and resumes by these. Its input is the file of answers of the
stage before it, read as it grows, until that stage has ended. So no stage waits for a slower one behind it, what is
under way between two stages is on disk, and a crash loses nothing.

A stage that ends too early leaves the others going, which work off what is there, unless nothing more should be paid
for: it has given up, its reader is gone, or it has a defect.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from llmblast.errors import ExitCode, LlmblastError, UsageError
from llmblast.job.defects import Defects
from llmblast.job.pipeline import Pipeline
from llmblast.job.pipeline_building import build_pipeline
from llmblast.job.run import Ending, Job
from llmblast.job.run_inputs import Prompts
from llmblast.job.start import KEPT_BESIDE, check_no_input, run_preflight_checks
from llmblast.reading.growing import open_growing
from llmblast.settings import Settings
from llmblast.stage_loading import StageSettings

_ENDS_ALL = (ExitCode.GAVE_UP, ExitCode.DEFECT, ExitCode.READER_GONE)
FINISHED = (ExitCode.OK, ExitCode.SOME_FAILED)
"""Exit codes of stages that have read their whole input."""


@dataclass(slots=True, eq=False)
class OpenStage:
    """A stage whose files and channels are open. `has_ended` is set once all its records are written."""

    name: str
    settings: Settings
    pipeline: Pipeline
    has_ended: asyncio.Event


def prepare_stages(stages: Sequence[StageSettings]) -> Sequence[StageSettings]:
    """Return the stages with checked settings; see `run_preflight_checks`. Raises LlmblastError."""
    checked: list[StageSettings] = []
    taken: dict[str, str] = {}
    for stage in stages:
        try:
            settings = run_preflight_checks(stage.settings)
        except LlmblastError as error:
            raise _named(stage, error) from None
        checked.append(replace(stage, settings=settings))
        for flag, path in (("--save", settings.save), ("--errors", settings.errors_path)):
            check_no_input(stages[0].settings, flag, path)
            place = os.path.realpath(path)
            if place in taken:
                raise UsageError(f"{path}: is an output of the stages {taken[place]} and {stage.name}: name two files")
            taken |= dict.fromkeys((place, *(place + suffix for suffix in KEPT_BESIDE)), stage.name)
    return checked


@asynccontextmanager
async def open_stages(
    stages: Sequence[StageSettings],
    environ: Mapping[str, str],
    make_defects: Callable[[StageSettings], Defects],
    prompts: Prompts | None = None,
) -> AsyncIterator[Sequence[OpenStage]]:
    """Open all stages, and close them at the end; see `build_pipeline`. Raises LlmblastError before anything is sent.

    `prompts` replace the input of the first stage.
    """
    async with AsyncExitStack() as stack:
        opened: list[OpenStage] = []
        for stage in stages:
            source = None
            if opened:
                source = await open_growing(stage.settings.input[0], opened[-1].has_ended)
                stack.push_async_callback(source.close)
            building = build_pipeline(
                stage.settings, environ, make_defects(stage), prompts=None if opened else prompts, source=source
            )
            try:
                pipeline = await stack.enter_async_context(building)
            except LlmblastError as error:
                raise _named(stage, error) from None
            opened.append(OpenStage(stage.name, stage.settings, pipeline, asyncio.Event()))
        yield opened


def _named(stage: StageSettings, error: LlmblastError) -> LlmblastError:
    """Return the error with the name of its stage."""
    return type(error)(f"stage {stage.name}: {error}")


class StageJobs:
    """Run the jobs of all stages. `on_early_end` is called when one has ended before its time by itself."""

    def __init__(
        self, stages: Sequence[OpenStage], jobs: Sequence[Job], on_early_end: Callable[[OpenStage, Ending], None]
    ) -> None:
        self.stopped: set[str] = set()
        """Names of stages that were stopped from outside: by a person, or because of another stage."""
        self._stages = stages
        self._jobs = dict(zip((stage.name for stage in stages), jobs, strict=True))
        self._on_early_end = on_early_end
        self._cause: ExitCode | None = None

    async def run(self) -> Sequence[Ending]:
        """Run all jobs to their ends."""
        watching = [asyncio.create_task(self._watch(stage)) for stage in self._stages]
        try:
            endings = await asyncio.gather(*[self._run(stage) for stage in self._stages], return_exceptions=True)
            for ending in endings:
                if isinstance(ending, BaseException):
                    raise ending
            return [ending for ending in endings if isinstance(ending, Ending)]
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def drain(self, exit_code: ExitCode, reason: str) -> int:
        """Send nothing more in any stage. Return the number of requests in flight."""
        self._cause = self._cause or exit_code
        running = [stage.name for stage in self._stages if not stage.has_ended.is_set()]
        self.stopped.update(name for name in running if not self._is_stopping(name))
        return sum(self._jobs[name].drain(exit_code, reason) for name in running)

    def abort_in_flight(self) -> None:
        """Abort the requests in flight of stages that are stopping."""
        for job in self._jobs.values():
            job.abort_in_flight()

    def fail_internal(self, error: BaseException) -> None:
        """End all stages because of a defect that may be of any of them."""
        for stage in self._stages:
            if not stage.has_ended.is_set():
                self._jobs[stage.name].fail_internal(error)

    def refresh_counters(self) -> None:
        """Bring totals and gauges of all stages up to date."""
        for job in self._jobs.values():
            job.refresh_counters()

    def exit_code(self, endings: Sequence[Ending]) -> ExitCode:
        """Return the exit code of the whole: why all stages ended early, else why the first one of them did."""
        codes = [ending.exit_code for ending in endings]
        if ExitCode.DEFECT in codes:
            return ExitCode.DEFECT
        if self._cause is not None and self._cause in codes:
            return self._cause
        early = [code for code in codes if code not in FINISHED]
        return early[0] if early else max(codes)

    async def _run(self, stage: OpenStage) -> Ending:
        try:
            ending = await self._jobs[stage.name].run()
        except BaseException:
            stage.has_ended.set()
            self.drain(ExitCode.DEFECT, f"stopped, because stage {stage.name} has a defect")
            raise
        finally:
            stage.has_ended.set()
        if ending.exit_code not in FINISHED and stage.name not in self.stopped:
            self._on_early_end(stage, ending)
        self._end_all_after(stage, ending.exit_code)
        return ending

    async def _watch(self, stage: OpenStage) -> None:
        """Stop the other stages as soon as one stops for a reason that ends all."""
        end = stage.pipeline.engine.end
        await end.stopping.wait()
        self._end_all_after(stage, end.exit_code)

    def _end_all_after(self, stage: OpenStage, exit_code: ExitCode | None) -> None:
        if exit_code is not None and exit_code in _ENDS_ALL and stage.name not in self.stopped:
            self.drain(exit_code, f"stopped, because stage {stage.name} has ended")

    def _is_stopping(self, name: str) -> bool:
        stage = next(stage for stage in self._stages if stage.name == name)
        return stage.pipeline.engine.end.stopping.is_set()
