"""Run inputs: open what a run reads, the input and the lines that may wait, each with the parser of its lines."""

import time
from collections.abc import AsyncIterable, Iterable, Sequence

from llmblast.errors import UsageError
from llmblast.input_paths import DEFERRED_PROMPTS
from llmblast.job.input_reader import make_parser
from llmblast.providers import providers_of
from llmblast.reading import RequestParser, Source, Sources, open_sources
from llmblast.reading.file_formats import forced_format
from llmblast.reading.prompts import open_prompts
from llmblast.settings import Settings

Prompts = Iterable[object] | AsyncIterable[object]


def make_parsers(settings: Settings, *, has_deferred: bool) -> Sequence[RequestParser]:
    """Return the parser of the input, and that of lines that may wait: each knows the file that it reads."""
    providers, now_s = providers_of(settings.endpoints, settings.model), time.time()
    classes = (False, True) if has_deferred else (settings.defer is not None,)
    return [make_parser(settings, providers, now_s=now_s, is_deferred=is_deferred) for is_deferred in classes]


async def open_input(
    settings: Settings, prompts: Prompts | None, source: Source | None, *, after_stage: bool, are_all: bool
) -> Sources | None:
    """Open the input: the records of an earlier stage, the prompts of a caller, or what the settings name."""
    if source is not None:
        return Sources(source)
    if prompts is None:
        if not settings.input:
            return None
        return await open_sources(settings.input, follow=settings.follow, are_all=are_all)
    return _open_prompts(settings, prompts, after_stage=after_stage)


async def open_deferred(settings: Settings, prompts: Prompts | None) -> Sources:
    """Open the input of lines that may wait."""
    if prompts is not None:
        return _open_prompts(settings, prompts, DEFERRED_PROMPTS)
    return await open_sources(settings.deferred, are_all=False)


def _open_prompts(
    settings: Settings, prompts: Prompts, name: str | None = None, *, after_stage: bool = False
) -> Sources:
    if forced_format(settings.format) is not None:
        raise UsageError(
            f"format {settings.format}: is a format of files, but the prompts are objects of Python: leave it out"
        )
    source = open_prompts(prompts)
    source.is_stream = after_stage
    return Sources(source) if name is None else Sources(source, (name,), are_named=True)
