"""Repeats: ask for several answers to each line, with a seed of its own for each where the API has one.

The records of a line have the same key and their `repeat`, from 1, by which a later run finds out which are missing.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import orjson

from llmblast.job.batch_parser import MAX_BATCH_LINES, Batch, skip_completed
from llmblast.models import Failure, Request
from llmblast.providers import seed_place
from llmblast.reading import CompletedKeys, key_of_repeat
from llmblast.reading.members import take_out
from llmblast.watching import Counters


class Repeats:
    """Make `count` requests of each, but for those that earlier runs completed. A bad line has one record.

    `hosts` are those of the endpoints by the kinds of their providers.
    """

    def __init__(
        self,
        count: int,
        hosts: Mapping[str, Collection[str]],
        counters: Counters,
        answered: CompletedKeys,
        failed: CompletedKeys,
    ) -> None:
        self._count = count
        self._hosts = hosts
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
            if repeated or not batch:  # the run looks after the lines that wait between batches
                yield repeated

    def _repeats_of(self, item: Request | Failure) -> Iterator[Request | Failure]:
        if isinstance(item, Failure):
            if not self._is_completed(item.line.key, 1):
                yield item
            return
        self._counters.repeats += self._count - 1
        place = seed_place(item.kind, item.path, self._hosts[item.kind])
        for repeat in range(1, self._count + 1):
            if not self._is_completed(item.key, repeat):
                body = item.body if place is None else with_seed(item.body, place, repeat)
                yield replace(item, body=body, repeat=repeat)

    def _is_completed(self, key: str, repeat: int) -> bool:
        if not (self._answered or self._failed):
            return False
        return skip_completed(key_of_repeat(key, repeat), self._answered, self._failed, self._counters)


def with_seed(body: bytes, place: Sequence[str], repeat: int) -> bytes:
    """Return a body with the seed of a repeat: its number, or, counted from the body's own seed, its place.

    `place` are the names of members down to the seed; each may be spelled in snake case, too.
    """
    name, *inner = place
    if inner:
        spellings = {name, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)}
        body, taken = take_out(body, spellings)
        name = next(iter(taken), name)
        inside = orjson.dumps(taken[name]) if name in taken else b"{}"
        return _with_member(body, name, with_seed(inside if inside.startswith(b"{") else b"{}", inner, repeat))
    seed = repeat
    if b'"%b"' % name.encode() in body and name in (members := orjson.loads(body)):
        own = members[name]
        if own is not None and type(own) is not int:
            return body
        seed = repeat if own is None else own + repeat - 1
        body, _ = take_out(body, {name})
    return _with_member(body, name, b"%d" % seed)


def _with_member(body: bytes, name: str, value: bytes) -> bytes:
    start = body.rstrip()[:-1].rstrip()
    comma = b"" if start.endswith(b"{") else b","
    return b'%b%b"%b":%b}' % (start, comma, name.encode(), value)
