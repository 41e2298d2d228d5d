"""Search a listing of batches for the one that carries a mark.

A listing is read from the newest batch on, back to some days before the start: our clock may be wrong, or may have been
set since then. A listing may also lag behind, so `look_for` looks until the start is old enough to be in it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Protocol

from llmblast.batching.api import BatchFile, BatchStatus, Finding, Found, NotFound

SEARCH_BACK_S = 7 * 24 * 3600.0
"""How far before the start of a batch the listing is searched."""
LISTING_LAG_S = 30.0
"""Longest time until a new batch is in the listing."""
_LOOK_AGAIN_S = 2.0


class Finder(Protocol):
    """The part of `BatchApi` that `look_for` calls."""

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: Collection[str] = ()) -> Finding:
        """See `BatchApi`."""


def is_within(batch: BatchStatus, since_wall_s: float) -> bool:
    """Return whether a batch may have been created after `since_wall_s`."""
    return batch.created_at_s is None or batch.created_at_s >= since_wall_s


async def find_mark(
    batches: AsyncGenerator[BatchStatus, None], batch: BatchFile, known_ids: Collection[str]
) -> Finding:
    """Return the batch with the mark, or on the uploaded file, which only batches with this mark have.

    `known_ids` are left out: a batch that failed has the mark and the file of the one that was started after it.
    """
    async with aclosing(batches):
        async for found in batches:
            is_on_file = batch.upload_id is not None and found.upload_id == batch.upload_id
            if found.id not in known_ids and (found.mark == batch.mark or is_on_file):
                return Found(found)
    return NotFound()


async def look_for(
    api: Finder,
    batch: BatchFile,
    first_wall_s: float,
    last_wall_s: float,
    known_ids: Collection[str] = (),
    *,
    lag_s: float = LISTING_LAG_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    wall_clock: Callable[[], float] = time.time,
) -> Finding:
    """Return what the listing says of a batch whose start was tried first and last at these times.

    A NotFound is final: it was still the answer when the last try was `lag_s` old. Where that is in the future, the
    clock has been set, and the wait begins now.
    """
    final_from_s = min(last_wall_s, wall_clock()) + lag_s
    while True:
        is_final = wall_clock() >= final_from_s
        finding = await api.find(batch, first_wall_s, known_ids)
        if is_final or not isinstance(finding, NotFound):
            return finding
        await sleep(_LOOK_AGAIN_S)
