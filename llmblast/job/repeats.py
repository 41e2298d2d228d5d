"""Repeats: ask for several answers to each line, with a seed of its own for each where the API has one.

The records of a line have the same key and their `repeat`, from 1, by which a later run finds out which are missing.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import orjson

from llmblast.job.batch_parser import MAX_BATCH_LINES, Batch, skip_completed
from llmblast.models import Failure, Request
from llmblast.providers import seed_member
from llmblast.reading import CompletedKeys, key_of_repeat
from llmblast.reading.members import take_out
from llmblast.watching import Counters


class Repeats:
    """Make `count` requests of each, but for those that earlier runs completed. A bad line has one record."""

    def __init__(self, count: int, counters: Counters, answered: CompletedKeys, failed: CompletedKeys) -> None:
        self._count = count
        self._counters = counters
        self._answered = answered
        self._failed = failed

    async def batches(self, parsed: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        """Yield the requests of each batch, and its bad lines, up to 64 at a time."""
        async for batch in parsed:
            repeated: list[Request | Failure] = []
            for item in batch:
                for one in self._repeats_of(item):
                    repeated.append(one)
                    if len(repeated) >= MAX_BATCH_LINES:
                        yield repeated
                        repeated = []
            if repeated:
                yield repeated

    def _repeats_of(self, item: Request | Failure) -> Iterator[Request | Failure]:
        if isinstance(item, Failure):
            if not self._is_completed(item.line.key, 1):
                yield item
            return
        self._counters.repeats += self._count - 1
        member = seed_member(item.kind, item.path)
        for repeat in range(1, self._count + 1):
            if not self._is_completed(item.key, repeat):
                body = item.body if member is None else with_seed(item.body, member, repeat)
                yield replace(item, body=body, repeat=repeat)

    def _is_completed(self, key: str, repeat: int) -> bool:
        if not (self._answered or self._failed):
            return False
        return skip_completed(key_of_repeat(key, repeat), self._answered, self._failed, self._counters)


def with_seed(body: bytes, member: str, repeat: int) -> bytes:
    """Return a body with the seed of a repeat: its number, or, counted from the body's own seed, its place."""
    seed = repeat
    if b'"%b"' % member.encode() in body and member in (members := orjson.loads(body)):
        own = members[member]
        if own is not None and type(own) is not int:
            return body
        seed = repeat if own is None else own + repeat - 1
        body, _ = take_out(body, {member})
    start = body.rstrip()[:-1].rstrip()
    comma = b"" if start.endswith(b"{") else b","
    return b'%b%b"%b":%d}' % (start, comma, member.encode(), seed)
