"""The front door for Python programs: the run of the command line, without terminal, signals and exit code.

    async for result in llmblast.stream(prompts, endpoints=["http://127.0.0.1:8000/v1"], rps=50): ...
    summary = await llmblast.run_async("prompts.jsonl", save="save.jsonl", endpoints=["http://127.0.0.1:8000/v1"])
    summary = llmblast.run(["Who are you?"], endpoints=["mock:"])

`prompts` is the path of a JSONL file, a pattern such as `data/*.jsonl`, a URL, or a list of these: of Path objects,
or of strings that all end like a file of prompts, such as `a.jsonl` and `b.jsonl.gz`. Else `prompts` is any iterable
or asynchronous iterable of strings (one user message each) and dicts (what a line of such a file may hold). A plain
iterable is read on the event loop: one that waits, for a database say, should be asynchronous. `deferred` are further
prompts of any of these forms, which use what the others leave of the limits. `endpoints` are URLs
as `--url` takes them, dicts, or EndpointSettings. All other keywords are settings of the run by their names, and
`config` is a file of them; the variables LLMBLAST_... are not read.

Messages go to the logger `llmblast`. Errors are those of `llmblast.errors`; wrong settings are a UsageError at once.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import (
    DefectError,
    ExitCode,
    GaveUpError,
    InputDamagedError,
    LlmblastError,
    RefusedError,
    StoppedError,
    UsageError,
)
from llmblast.input_paths import DEFERRED_PROMPTS, expand_inputs, recorded_input
from llmblast.option_types import RunOptions, StreamOptions
from llmblast.results import EndpointSummary, Result, RunSummary
from llmblast.running import Running, Stoppable
from llmblast.setting_loading import load
from llmblast.setting_option import ENV_PREFIX
from llmblast.settings import Settings

if TYPE_CHECKING:
    from llmblast.job.pipeline import Pipeline
    from llmblast.job.result_queue import ResultQueue
    from llmblast.job.run import Ending


Prompts = (
    str
    | os.PathLike[str]
    | Iterable[str | os.PathLike[str]]
    | Iterable[str | Mapping[str, Any]]
    | AsyncIterable[str | Mapping[str, Any]]
)
Endpoint = str | Mapping[str, Any] | EndpointSettings
Endpoints = Endpoint | Sequence[Endpoint] | None

logger = logging.getLogger("llmblast")
logger.addHandler(logging.NullHandler())  # else Python prints warnings if logging is not set up

_PROMPTS = "the prompts"
_OF_TERMINALS = ("progress", "json", "quiet")
OF_FILES = (
    "errors",
    "output_format",
    "ordered",
    "overwrite",
    "force",
    "detach",
    "disk_wait",
    "spool",
    "retry_errors",
    "changed_settings",
)
_FLAG = re.compile(r"--([a-z][a-z-]*[a-z]|[a-z])\b")
_FILE_NAME = re.compile(
    r"\S+\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather|txt)(\.(gz|zst|bz2|xz))?", re.IGNORECASE
)
_EXAMPLES = 'name one, such as endpoints=["http://127.0.0.1:8000/v1"], or try the built-in one: endpoints=["mock:"]'
_ERRORS: Mapping[ExitCode, type[LlmblastError]] = {
    ExitCode.GAVE_UP: GaveUpError,
    ExitCode.STOPPED: StoppedError,
    ExitCode.INPUT_DAMAGED: InputDamagedError,
    ExitCode.DEFECT: DefectError,
    ExitCode.REFUSED: RefusedError,
}


def stream(
    prompts: Prompts,
    *,
    endpoints: Endpoints = None,
    deferred: Prompts | None = None,
    **settings: Unpack[StreamOptions],
) -> AsyncGenerator[Result, None]:
    """Return an asynchronous iterator over the results, as they finish. No file is written.

    A slow consumer slows the run. Leaving the loop ends the run: nothing more is sent, what is in flight is abandoned,
    and all is closed when `aclose` returns; `contextlib.aclosing` calls it at a certain moment. So does cancelling the
    task that iterates.
    Raises UsageError at once. The iterator raises, behind the results, what `prompts` raises, and a LlmblastError where
    the run ended before its time: RefusedError, GaveUpError, StoppedError, InputDamagedError, DefectError.
    """
    plan = _make_plan(prompts, deferred, endpoints, settings, in_memory=True)
    return stream_plan(plan)


async def run_async(
    prompts: Prompts,
    *,
    endpoints: Endpoints = None,
    deferred: Prompts | None = None,
    **settings: Unpack[RunOptions],
) -> RunSummary:
    """Run a whole job, and return how it ended.

    With `save=FILE` the records go to files, as on the command line: what they hold already is not sent again. Without,
    the results are in the summary, in the order of the prompts.
    Cancelling sends nothing more; with files, what is in flight has `grace` seconds to end, unless cancelled again.
    Raises UsageError, InputMissingError and OutputBlockedError before anything is sent, and what `prompts` raises.
    """
    in_memory = settings.get("save") is None
    plan = _make_plan(prompts, deferred, endpoints, settings, in_memory=in_memory)
    running, queue = _start(plan)
    results: list[Result] = []
    try:
        if queue is not None:
            while batch := await queue.take():
                results += batch
        ending, summary = await asyncio.shield(running.task)
    finally:
        await running.end(at_once=in_memory)
    if ending.prompts_error is not None:
        raise ending.prompts_error
    results.sort(key=lambda result: (plan.order.get(result.file, 0), result.index, result.repeat))
    return replace(summary, results=tuple(results))


def run(
    prompts: Prompts,
    *,
    endpoints: Endpoints = None,
    deferred: Prompts | None = None,
    **settings: Unpack[RunOptions],
) -> RunSummary:
    """Do what `run_async` does, on an event loop of its own. Raises UsageError where a loop runs in this thread."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError(
            "llmblast.run() cannot be used while an event loop runs in this thread, as in a notebook or a coroutine: "
            "write await llmblast.run_async(...)"
        )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run_async(prompts, endpoints=endpoints, deferred=deferred, **settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 -- not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


@dataclass(frozen=True, slots=True)
class Plan:
    """A run whose settings are checked. `prompts` is None where the settings name a file."""

    settings: Settings
    environ: Mapping[str, str]
    prompts: Iterable[object] | AsyncIterable[object] | None
    in_memory: bool
    order: Mapping[str | None, int]
    """Places of the files among the inputs."""
    after_stage: bool = False
    """The prompts are the answers of an earlier stage."""
    name: str = ""
    """The name of the stage, in a pipeline."""
    deferred: Iterable[object] | AsyncIterable[object] | None = None
    """Prompts that may wait, unless the settings name a file of them."""


def _make_plan(
    prompts: object, deferred: object, endpoints: Endpoints, options: Mapping[str, object], *, in_memory: bool
) -> Plan:
    try:
        return _check_plan(prompts, deferred, endpoints, options, in_memory=in_memory)
    except LlmblastError as error:
        raise type(error)(in_python(str(error))) from None


def _check_plan(
    prompts: object, deferred: object, endpoints: Endpoints, options: Mapping[str, object], *, in_memory: bool
) -> Plan:
    from llmblast.job.start import check_answers, check_endpoints, run_preflight_checks  # noqa: PLC0415 -- only runs need it

    environ = run_environment()
    flags = {name: value for name, value in options.items() if value is not None}
    check_names(flags, in_memory=in_memory)
    config = flags.pop("config", None)
    paths_of_input = paths_in(prompts)
    flags["input"] = _PROMPTS if paths_of_input is None else paths_of_input
    deferred_paths = paths_in(deferred)
    if deferred is not None:
        flags["deferred"] = DEFERRED_PROMPTS if deferred_paths is None else deferred_paths
    flags["endpoints"] = endpoint_specs(endpoints)
    paths = {name: os.fspath(value) for name, value in flags.items() if isinstance(value, os.PathLike)}
    settings = load({**flags, **paths}, None if config is None else os.fspath(config), environ)  # type: ignore[call-overload] # else a TypeError
    if not settings.endpoints:
        raise UsageError(f"no endpoint: {_EXAMPLES}")
    if in_memory:
        check_endpoints(settings)
        settings = check_answers(settings)
    else:
        settings = run_preflight_checks(settings)
    return Plan(
        settings,
        environ,
        as_iterable(prompts) if paths_of_input is None else None,
        in_memory,
        order_of(settings),
        deferred=None if deferred is None or deferred_paths is not None else as_iterable(deferred),
    )


def run_environment() -> dict[str, str]:
    """Return the variables that a run sees: not those with options of the command line."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def order_of(settings: Settings) -> Mapping[str | None, int]:
    """Return the places of the files among the inputs. Raises InputMissingError."""
    paths = expand_inputs(settings.input, follow=settings.follow) + expand_inputs(settings.deferred)
    return {file: place for place, file in reversed([*enumerate(map(recorded_input, paths))])}


def paths_in(prompts: object) -> list[str] | None:
    """Return the paths in place of prompts; None where `prompts` are prompts.

    A list of names of files is no list of prompts, as far as one can tell: all are paths, or all end like such a file.
    """
    if isinstance(prompts, str | os.PathLike):
        return [os.fspath(prompts)]
    if not isinstance(prompts, list | tuple) or not prompts:
        return None
    are_paths = all(isinstance(prompt, os.PathLike) or _is_file_name(prompt) for prompt in prompts)
    return [os.fspath(prompt) for prompt in prompts] if are_paths else None


def _is_file_name(prompt: object) -> bool:
    return isinstance(prompt, str) and _FILE_NAME.fullmatch(prompt) is not None


def check_names(flags: Mapping[str, object], *, in_memory: bool) -> None:
    """Raise UsageError for settings that have no meaning in Python, or without files."""
    if "input" in flags:
        raise UsageError("input: the prompts, or the path of their file, are the first argument: leave input out")
    for name in _OF_TERMINALS:
        if name in flags:
            raise UsageError(f"{name}: is for the command line only: leave it out (messages go to the logger llmblast)")
    if not in_memory:
        return
    if "save" in flags:
        raise UsageError("save: stream() writes no files: leave it out, or use run_async(..., save=FILE)")
    for name in OF_FILES:
        if name in flags:
            raise UsageError(f"{name}: has no meaning without files: leave it out, or use run_async(..., save=FILE)")


def endpoint_specs(endpoints: object) -> Sequence[object] | None:
    """Return the endpoints as settings from a file would be. Raises UsageError."""
    if endpoints is None:
        return None
    if isinstance(endpoints, str | Mapping | EndpointSettings):
        endpoints = [endpoints]
    if not isinstance(endpoints, Iterable):
        raise UsageError(f"endpoints: {type(endpoints).__name__} is not allowed: {_EXAMPLES}")
    specs: list[object] = list(endpoints)
    for index, spec in enumerate(specs):
        if not isinstance(spec, str | Mapping | EndpointSettings):
            what = type(spec).__name__
            raise UsageError(f"endpoints[{index}]: {what} is not allowed: give a URL, a dict or EndpointSettings")
    return [_values_of(spec) if isinstance(spec, EndpointSettings) else spec for spec in specs]


def _values_of(endpoint: EndpointSettings) -> dict[str, object]:
    """Return the settings that are not the defaults, to be checked like settings from a file."""
    values = {entry.name: (getattr(endpoint, entry.name), entry) for entry in fields(endpoint)}
    return {
        name: value
        for name, (value, entry) in values.items()
        if value != (entry.default_factory() if entry.default_factory is not MISSING else entry.default)
    }


def as_iterable(prompts: object) -> Iterable[object] | AsyncIterable[object]:
    """Return the prompts. Raises UsageError where they are no iterable of prompts."""
    if isinstance(prompts, bytes | bytearray | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
        raise UsageError(
            f"prompts: {type(prompts).__name__} is not allowed: give the path of a file, or an iterable of strings or "
            "dicts, such as a list"
        )
    return prompts


def in_python(text: str) -> str:
    """Return a message with the names of settings as they are written in Python."""
    text = text.replace("--url", "endpoints")
    return _FLAG.sub(lambda found: found[1].replace("-", "_"), text)


def log_message(text: str) -> None:
    """Write a message to the logger."""
    logger.warning("%s", in_python(text.removeprefix("llmblast: ")))


def _start(plan: Plan) -> "tuple[Running[tuple[Ending, RunSummary]], ResultQueue | None]":
    """Start the run of a plan. Return it, and the queue of its results if it has no files."""
    from llmblast.job.result_queue import ResultQueue  # noqa: PLC0415 -- with all that a run needs, 100 ms

    settings, queue = plan.settings, None
    if plan.in_memory:
        queue = ResultQueue(echo=settings.echo, body=settings.body, max_in_flight=settings.concurrency)

    async def run(running: "Running[tuple[Ending, RunSummary]]") -> "tuple[Ending, RunSummary]":
        return await _run_plan(plan, queue, running.on_start)

    return Running(run, None if queue is None else queue.end), queue


async def _run_plan(
    plan: Plan, queue: "ResultQueue | None", on_start: Callable[[Stoppable], None]
) -> "tuple[Ending, RunSummary]":
    from llmblast.job.defects import Defects, LoggedDefects  # noqa: PLC0415 -- see above
    from llmblast.job.pipeline_building import build_pipeline  # noqa: PLC0415
    from llmblast.job.run import Job  # noqa: PLC0415

    make_defects = LoggedDefects if plan.in_memory else Defects
    defects = make_defects(plan.settings, plan.environ, "run", log_message)
    try:
        async with build_pipeline(
            plan.settings,
            plan.environ,
            defects,
            prompts=plan.prompts,
            deferred=plan.deferred,
            results=queue,
            after_stage=plan.after_stage,
        ) as pipeline:
            for note in pipeline.notes:
                log_message(note)
            job = Job(plan.settings, pipeline)
            on_start(job)
            ending = await job.run()
            return ending, summarize(ending, pipeline)
    except LlmblastError as error:
        raise type(error)(in_python(str(error))) from None
    except Exception as error:
        raise DefectError(defects.report(error)) from error


async def stream_plan(plan: Plan) -> AsyncGenerator[Result, None]:
    """Yield the results of a plan without files, as they finish; see `stream`."""
    running, queue = _start(plan)
    assert queue is not None
    try:
        while batch := await queue.take():
            for result in batch:
                yield result
        ending, _ = await asyncio.shield(running.task)
    finally:
        await running.end(at_once=True)
    if ending.prompts_error is not None:
        raise ending.prompts_error
    if ending.exit_code not in (ExitCode.OK, ExitCode.SOME_FAILED):
        _raise(ending)


def _raise(ending: "Ending") -> NoReturn:
    raise _ERRORS.get(ending.exit_code, LlmblastError)(in_python(ending.verdict))


def summarize(ending: "Ending", pipeline: "Pipeline") -> RunSummary:
    """Return the summary of a run."""
    counters, cost = pipeline.counters, pipeline.counters.cost
    return RunSummary(
        exit_code=ending.exit_code,
        verdict=in_python(ending.verdict),
        duration_s=ending.duration_s,
        read=counters.lines_read,
        skipped=counters.skipped,
        answered=counters.succeeded,
        late=counters.late,
        batched=counters.batched,
        failed=counters.failed,
        malformed=counters.malformed,
        pending=counters.pending,
        sent=counters.sent,
        retries=counters.retries,
        rate_limited=counters.rate_limited,
        maybe_billed=counters.maybe_billed,
        prompt_tokens=counters.prompt_tokens,
        completion_tokens=counters.completion_tokens,
        cached_tokens=counters.cached_tokens,
        cost=None if cost is None else cost.total,
        saved=None if cost is None else cost.saved,
        invalid=counters.invalid,
        repairs=counters.repairs,
        escalated=counters.escalated,
        invalid_tokens=counters.invalid_prompt_tokens + counters.invalid_completion_tokens,
        endpoints=tuple(
            EndpointSummary(
                name=mine.name,
                sent=mine.sent,
                answered=mine.succeeded,
                errors=mine.errors,
                rate_limited=mine.rate_limited,
                tokens=mine.tokens,
                state=mine.state,
                latency_p50_s=mine.latency.quantile(0.5),
                latency_p95_s=mine.latency.quantile(0.95),
            )
            for mine in counters.endpoints
        ),
    )
