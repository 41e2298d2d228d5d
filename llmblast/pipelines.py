"""Pipelines of the Python API: several stages, each of which sends the answers of the one before it.

    stages = [
        llmblast.Stage("draft", endpoints=["http://127.0.0.1:8000/v1"]),
        llmblast.Stage("judge", endpoints=["http://127.0.0.1:8001/v1"], prompt="Judge: {response}"),
    ]
    async for result in llmblast.pipeline(prompts, stages=stages): ...
    summary = await llmblast.run_pipeline("prompts.jsonl", stages=stages)

`pipeline` is to `run_pipeline` as `stream` is to `run_async`: in memory, or with files that are resumed. The prompt of
a later stage is made from the fields of the records before it: `{response}`, `{input}`, `{parsed.score}`, own fields.
Keywords beside the stages are settings that hold for all of them, as those above the `[[stage]]` tables of a file do.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Unpack

from llmblast.api import (
    OF_FILES,
    Endpoints,
    Plan,
    Prompts,
    as_iterable,
    check_names,
    endpoint_specs,
    in_python,
    log_message,
    order_of,
    paths_in,
    run_environment,
    stream_plan,
    summarize,
)
from llmblast.errors import DefectError, LlmblastError, UsageError
from llmblast.option_types import RunOptions, StreamOptions
from llmblast.results import PipelineSummary, Result
from llmblast.running import Running
from llmblast.stage_loading import StageSettings, load_stages, merge_stages

MAX_MERGED = 64
"""Results of all stages that wait for the consumer, beside those that wait in the last stage."""
_PROMPTS = "the prompts"


@dataclass(frozen=True, slots=True, init=False)
class Stage:
    """One stage of a pipeline: its endpoints, its prompt, and other settings as `run_async` takes them.

    Its name is that of its files, and stands in results and messages; default: stage1, stage2, ...
    """

    name: str | None
    options: Mapping[str, Any]

    def __init__(self, name: str | None = None, *, endpoints: Endpoints = None, **settings: Unpack[RunOptions]) -> None:
        object.__setattr__(self, "name", name)
        given = {key: value for key, value in settings.items() if value is not None}
        object.__setattr__(self, "options", given if endpoints is None else {**given, "endpoints": endpoints})


def pipeline(
    prompts: Prompts, *, stages: Sequence[Stage], endpoints: Endpoints = None, **settings: Unpack[StreamOptions]
) -> AsyncGenerator[Result, None]:
    """Return an asynchronous iterator over the results of the last stage, as they finish. No file is written.

    A prompt that fails in an earlier stage is a result with `ok` false; `stage` names the stage. A slow consumer, or a
    slow stage, slows the stages before it. For all else see `stream`.
    """
    try:
        plans = _make_plans(prompts, stages, endpoints, settings)
    except LlmblastError as error:
        raise type(error)(in_python(str(error))) from None
    return _pipeline(plans)


async def run_pipeline(
    prompts: Prompts,
    *,
    stages: Sequence[Stage] | None = None,
    endpoints: Endpoints = None,
    **settings: Unpack[RunOptions],
) -> PipelineSummary:
    """Run all stages with files, and return how they ended.

    The answers of a stage go to its `save`, by default NAME.jsonl. What the files hold already is not sent again. The
    stages may be in a file, too: `config="judge.toml"`. For all else see `run_async`.
    """
    try:
        checked = _load(prompts, stages, endpoints, settings)
        from llmblast.job.stages import prepare_stages  # noqa: PLC0415 -- with all that a run needs, 100 ms

        checked = prepare_stages(checked)
    except LlmblastError as error:
        raise type(error)(in_python(str(error))) from None
    first = None if paths_in(prompts) is not None else as_iterable(prompts)
    running = Running[PipelineSummary](partial(_run_with_files, checked, first))
    try:
        return await asyncio.shield(running.task)
    finally:
        await running.end(at_once=False)


async def _run_with_files(
    stages: Sequence[StageSettings], prompts: Any, running: Running[PipelineSummary]
) -> PipelineSummary:
    from llmblast.job.defects import Defects  # noqa: PLC0415 -- see above
    from llmblast.job.run import Job  # noqa: PLC0415
    from llmblast.job.stages import StageJobs, open_stages  # noqa: PLC0415

    environ = run_environment()
    defects = {stage.name: Defects(stage.settings, environ, "run", log_message) for stage in stages}
    try:
        async with open_stages(stages, environ, lambda stage: defects[stage.name], prompts) as opened:
            for note in (note for stage in opened for note in stage.pipeline.notes):
                log_message(note)
            jobs = StageJobs(
                opened, [Job(stage.settings, stage.pipeline) for stage in opened], lambda stage, ending: None
            )
            running.on_start(jobs)
            endings = await jobs.run()
            summaries = {
                stage.name: summarize(ending, stage.pipeline) for stage, ending in zip(opened, endings, strict=True)
            }
    except LlmblastError as error:
        raise type(error)(in_python(str(error))) from None
    except Exception as error:
        raise DefectError(defects[stages[0].name].report(error)) from error
    if endings[0].prompts_error is not None:
        raise endings[0].prompts_error
    return PipelineSummary(exit_code=jobs.exit_code(endings), stages=summaries)


def _load(
    prompts: object, stages: Sequence[Stage] | None, endpoints: Endpoints, options: Mapping[str, object]
) -> Sequence[StageSettings]:
    """Return the settings of all stages. Raises UsageError."""
    environ = run_environment()
    shared = {name: value for name, value in options.items() if value is not None}
    check_names(shared, in_memory=False)
    config = shared.pop("config", None)
    shared["input"] = _PROMPTS if (paths := paths_in(prompts)) is None else paths
    if endpoints is not None:
        shared["endpoints"] = endpoint_specs(endpoints)
    shared = _without_path_objects(shared)
    if stages is None:
        if config is None:
            raise UsageError('stages: is missing: give a list of Stage objects, or config="FILE" with [[stage]] tables')
        return load_stages(shared, os.fspath(config), environ)  # type: ignore[call-overload] # else a TypeError
    if config is not None:
        raise UsageError("config: the stages are given already: leave one of both out")
    return merge_stages(_tables_of(stages), {}, shared, None, environ)


def _tables_of(stages: Iterable[object]) -> list[Mapping[str, Any]]:
    """Return the stages as tables of a file would be. Raises UsageError."""
    tables: list[Mapping[str, Any]] = []
    for index, stage in enumerate(stages):
        if not isinstance(stage, Stage):
            raise UsageError(f"stages[{index}]: {type(stage).__name__} is not a stage: write llmblast.Stage(...)")
        table = _without_path_objects(stage.options)
        if "endpoints" in table:
            table["endpoints"] = endpoint_specs(table["endpoints"])
        tables.append(table if stage.name is None else {"name": stage.name, **table})
    if not tables:
        raise UsageError("stages: is empty: give at least one llmblast.Stage(...)")
    return tables


def _without_path_objects(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}


def _make_plans(
    prompts: object, stages: Sequence[Stage], endpoints: Endpoints, options: Mapping[str, object]
) -> list[Plan]:
    """Return the plans of all stages, without the prompts of the later ones. Raises UsageError."""
    from llmblast.job.start import check_answers, check_endpoints  # noqa: PLC0415 -- only runs need it

    for index, table in enumerate(_tables_of(stages)):
        for name in ("save", *OF_FILES):
            if name in table:
                raise UsageError(f"stages[{index}].{name}: has no meaning without files: use run_pipeline(...)")
    check_names({name: value for name, value in options.items() if value is not None}, in_memory=True)
    plans: list[Plan] = []
    for loaded in _load(prompts, stages, endpoints, options):
        try:
            check_endpoints(loaded.settings)
            settings = check_answers(loaded.settings)
        except LlmblastError as error:
            raise type(error)(f"stage {loaded.name}: {error}") from None
        plans.append(Plan(settings, run_environment(), None, True, {}, after_stage=bool(plans), name=loaded.name))
    if paths_in(prompts) is None:
        plans[0] = replace(plans[0], prompts=as_iterable(prompts))
    else:
        plans[0] = replace(plans[0], order=order_of(plans[0].settings))
    return plans


async def _pipeline(plans: Sequence[Plan]) -> AsyncGenerator[Result, None]:
    merged: asyncio.Queue[Result | None] = asyncio.Queue(MAX_MERGED)
    results = stream_plan(plans[0])
    for before, plan in pairwise(plans):
        results = stream_plan(replace(plan, prompts=_answers(before.name, results, merged)))
    pumping = asyncio.create_task(_pump(plans[-1].name, results, merged))
    try:
        while (result := await merged.get()) is not None:
            yield result
        await pumping
    finally:
        pumping.cancel()
        await asyncio.wait([pumping])


async def _answers(
    stage: str, results: AsyncGenerator[Result, None], merged: asyncio.Queue[Result | None]
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield the records of a stage's answers, for the next one; results without an answer go to the consumer."""
    from llmblast.job.result_records import record_of  # noqa: PLC0415 -- see above

    async with aclosing(results):
        async for result in results:
            if result.ok:
                yield record_of(result)
            else:
                await merged.put(replace(result, stage=stage))


async def _pump(stage: str, results: AsyncGenerator[Result, None], merged: asyncio.Queue[Result | None]) -> None:
    """Pass the results of the last stage on, and then None."""
    try:
        async with aclosing(results):
            async for result in results:
                await merged.put(replace(result, stage=stage))
    finally:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            await merged.put(None)
