"""Batch building: open the journal and the clients of the batch APIs, and find out what earlier runs have left.

A line of an earlier batch has its outcome if a record names the batch, its key, its number and its file. All others are
still with the batch; their keys are left out of the input, since the batch has them.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

import orjson

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import OutputBlockedError
from llmblast.job.back_pressure import Sink
from llmblast.job.batch_endpoints import BatchEndpoint, open_batch_endpoints
from llmblast.job.batch_folders import folder_of
from llmblast.job.batch_journal import BatchJournal, Step
from llmblast.job.batch_lines import HEAD_BYTES, lines_in, places_in
from llmblast.job.batch_run_side import RunSide
from llmblast.job.batch_sends import BatchSends, EarlierBatch
from llmblast.job.batch_task import LineState
from llmblast.job.batch_words import words_of_failure
from llmblast.job.deferred_ways import DeferredWays
from llmblast.job.engine import Engine
from llmblast.job.fingerprint import keep_settings
from llmblast.job.input_reader import make_parser
from llmblast.models import Line
from llmblast.providers import providers_of
from llmblast.reading import CompletedKeys
from llmblast.sending import Channel, EndpointKey
from llmblast.settings import Settings
from llmblast.watching import Counters
from llmblast.writing import Writer
from llmblast.writing.ordered_writer import OrderedWriter

Place = tuple[bytes, int, str | None]
"""Key, as the start of a record, number and file of a line."""
_BATCH = b'"batch":"'


@dataclass(frozen=True, slots=True)
class OpenedBatches:
    """The journal, the endpoints with batch APIs, and what earlier runs have left."""

    journal: BatchJournal
    endpoints: list[BatchEndpoint]
    earlier: list[EarlierBatch]
    keys: CompletedKeys
    """Keys of the lines in earlier batches that have no record."""


async def open_batches(
    settings: Settings,
    started: Sequence[EndpointSettings],
    *,
    keys: Sequence[EndpointKey],
    channels: Sequence[Channel],
    environ: Mapping[str, str],
    stack: AsyncExitStack,
) -> OpenedBatches:
    """Open what batches need. The outputs are locked, and their records complete.

    Raises OutputBlockedError for a journal that cannot be read or written, and UsageError for an unusable setting.
    """
    journal = BatchJournal(folder_of(settings.save))
    endpoints = open_batch_endpoints(settings, started, keys=keys, channels=channels, environ=environ, stack=stack)
    try:
        earlier, left = await asyncio.to_thread(_find_earlier, journal, (settings.save, settings.errors_path))
    except OSError as error:
        raise OutputBlockedError(words_of_failure(journal.folder, error)) from None
    return OpenedBatches(journal, endpoints, earlier, left)


def make_batch_sends(
    settings: Settings,
    opened: OpenedBatches,
    engine: Engine,
    *,
    writer: Writer | OrderedWriter,
    sink: Sink,
    counters: Counters,
    say: Callable[[str], None],
    lines_per_s: Callable[[], float | None],
    ways: DeferredWays,
) -> BatchSends:
    """Return what sends lines by batch."""
    run = RunSide(
        engine,
        writer,
        sink,
        counters,
        new_parser=lambda: make_parser(settings, providers_of(settings.endpoints, settings.model)),
        lines_per_s=lines_per_s,
        keep_settings=partial(keep_settings, settings),
        say=say,
        detaches=settings.detach,
        may_repair=settings.judges_answers,
    )
    return BatchSends(run, opened.journal, opened.endpoints, opened.earlier, ways)


def expect_earlier(
    opened: OpenedBatches, *, expect: Callable[[Line], None] | None, wait_for: Callable[[Sequence[bytes]], None] | None
) -> None:
    """Announce the lines of earlier batches that have no record: to a writer that keeps the order, and to what sends
    equal requests once. Blocks.
    """
    if expect is None and wait_for is None:
        return
    for earlier in opened.earlier:
        path = opened.journal.lines_path(earlier.entry)
        for line, cache_keys in lines_in(path, earlier.states, LineState.OUTSTANDING):
            if expect is not None:
                expect(line)
            if wait_for is not None and cache_keys:
                wait_for(cache_keys)


def _find_earlier(journal: BatchJournal, outputs: Sequence[str]) -> tuple[list[EarlierBatch], CompletedKeys]:
    """Return the batches with lines that have no record yet, and the keys of these lines. Blocks."""
    journal.load()
    journal.remove_strays()
    entries = journal.open_entries
    if not entries:
        return [], CompletedKeys([])
    recorded = _find_recorded(outputs, {entry.id for entry in entries})
    earlier: list[EarlierBatch] = []
    left: list[bytes] = []
    for entry in entries:
        states, mine = bytearray(), recorded.get(entry.id, Counter())
        for place in islice(places_in(journal.lines_path(entry)), entry.lines):
            is_recorded = mine[place] > 0
            mine[place] -= is_recorded
            states.append(LineState.HANDLED if is_recorded else LineState.OUTSTANDING)
            if not is_recorded:
                left.append(place[0])
        if LineState.OUTSTANDING in states:
            earlier.append(EarlierBatch(entry, states))
        else:
            journal.record(entry, Step.DONE)
            journal.remove_files(entry)
    return earlier, CompletedKeys.of_records(left)


def _find_recorded(outputs: Sequence[str], ids: Collection[str]) -> dict[str, Counter[Place]]:
    """Return the places of the lines that have a record, by the batch that it names."""
    found: dict[str, Counter[Place]] = {}
    for output in outputs:
        for line in _lines_with_batch(output):
            with suppress(orjson.JSONDecodeError, KeyError, TypeError):
                record = orjson.loads(line)
                if record["batch"] in ids:
                    place = (line[:HEAD_BYTES], record["line"], record.get("file"))
                    found.setdefault(record["batch"], Counter())[place] += 1
    return found


def _lines_with_batch(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            for line in file:
                if _BATCH in line:
                    yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputBlockedError(f"{path}: cannot be read: {error.strerror}: make it readable") from None
