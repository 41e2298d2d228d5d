"""Open the parts of a run that hold a file or a socket, and find what earlier runs have left in the files."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llmblast.job.batch_folders import has_batches
from llmblast.job.defects import Defects
from llmblast.job.deferred_ways import may_choose_batches
from llmblast.job.endpoint_channels import open_channels, secrets_in, start_mocks
from llmblast.job.fingerprint import check_settings
from llmblast.job.learned_limits import known_limits
from llmblast.job.messages import say
from llmblast.job.outputs import find_finished_in, open_outputs
from llmblast.job.result_queue import ResultQueue
from llmblast.job.run_inputs import Prompts, open_deferred, open_input
from llmblast.job.run_outputs import open_timeline
from llmblast.providers import provider_of_key
from llmblast.reading import CompletedKeys, Source, Sources
from llmblast.scheduling import KnownLimits
from llmblast.sending import Channel, EndpointKey, connection_notes
from llmblast.settings import Settings
from llmblast.watching import Counters, EndpointCounters, Timeline, prices_of
from llmblast.writing import OutputFile

if TYPE_CHECKING:
    from llmblast.caching import StoreThread
    from llmblast.job.batch_building import OpenedBatches


@dataclass(slots=True)
class OpenedParts:
    """Parts of the pipeline that hold a file or a socket, and what was found in the files."""

    sources: Sources | None
    deferred_sources: Sources | None
    results: ResultQueue | None
    outputs: Sequence[OutputFile]
    """The files of answers and of errors; empty if the outcomes go to `results`."""
    answered: CompletedKeys
    failed: CompletedKeys
    known: Sequence[KnownLimits]
    """Limits that earlier runs have learned."""
    store: "StoreThread | None"
    """Answers to earlier requests; None where each line is sent."""
    channels: Sequence[Channel]
    keys: Sequence[EndpointKey]
    batches: "OpenedBatches | None"
    """What goes by batch, and what earlier runs have left there."""
    counters: Counters
    timeline: Timeline | None
    notes: Sequence[str]
    """Messages about repaired outputs and the ways to the endpoints."""
    defects: Defects
    has_stage_before: bool
    """The input are the records of one other run."""

    @property
    def can_resume(self) -> bool:
        """Return whether the answers go to a file, so that the same command can go on."""
        return bool(self.outputs) and self.outputs[0].is_resumable


@asynccontextmanager
async def open_parts(
    settings: Settings,
    environ: Mapping[str, str],
    defects: Defects,
    *,
    prompts: Prompts | None,
    deferred: Prompts | None,
    results: ResultQueue | None,
    source: Source | None,
    after_stage: bool,
) -> AsyncIterator[OpenedParts]:
    """Open input, outputs, store, channels and batches, and close them at the end. Arguments as `build_pipeline`'s.

    Raise UsageError, InputMissingError or OutputBlockedError.
    """
    has_deferred = bool(settings.deferred) or deferred is not None
    async with AsyncExitStack() as stack:
        sources = await open_input(settings, prompts, source, after_stage=after_stage, are_all=not has_deferred)
        deferred_sources = await open_deferred(settings, deferred) if has_deferred else None
        for opened_sources in filter(None, (sources, deferred_sources)):
            stack.push_async_callback(opened_sources.close)
        outputs = () if results is not None else open_outputs(settings)
        for output in outputs:
            stack.callback(output.close)
        answered, failed, known = await _find_finished(settings, outputs)
        store = await _open_store(settings, defects, stack)
        keys = [EndpointKey(e, environ, time.monotonic, provider_of_key(e, settings.model)) for e in settings.endpoints]
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
        yield OpenedParts(
            sources=sources,
            deferred_sources=deferred_sources,
            results=results,
            outputs=outputs,
            answered=answered,
            failed=failed,
            known=known,
            store=store,
            channels=channels,
            keys=keys,
            batches=batches,
            counters=counters,
            timeline=open_timeline(settings.timeline, counters, stack, defects.fence),
            notes=[
                *(note for output in outputs for note in output.repaired),
                *connection_notes(endpoints, environ, verbose=settings.verbose),
            ],
            defects=defects,
            has_stage_before=after_stage or source is not None,
        )


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


async def _open_store(settings: Settings, defects: Defects, stack: AsyncExitStack) -> "StoreThread | None":
    if settings.cache is None and not settings.dedupe:
        return None
    from llmblast.job.single_sends import open_store  # noqa: PLC0415 -- sqlite3, which few runs need

    store = await open_store(settings, partial(say, defects))
    stack.push_async_callback(store.close)
    return store
