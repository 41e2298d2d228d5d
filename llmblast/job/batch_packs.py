"""Batch packs: lines that go by batch, packed into files within the limits of the API, one for each group of lines.

A pack is closed when it is full, when the input has ended, or after some time without new lines. Methods block: they
write, and `close` makes what was written durable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from llmblast.job.batch_endpoints import BatchEndpoint, BatchGroup
from llmblast.job.batch_journal import BatchEntry, BatchJournal, new_mark
from llmblast.job.batch_lines import PackWriter, custom_id_of
from llmblast.models import Request
from llmblast.reading import RowForm

IDLE_S = 600.0
"""A pack without new lines is closed after so long,"""
IDLE_SHARE = 0.05
"""or after this share of the time that its lines have until their deadline."""

Closed = tuple[BatchEntry, BatchEndpoint]


@dataclass(slots=True, eq=False)
class _Pack:
    writer: PackWriter
    endpoint: BatchEndpoint
    last_line_s: float = 0.0

    def closes_at_s(self) -> float:
        """Return the wall time at which it is closed without new lines."""
        idle_s = IDLE_S
        if (deadline_s := self.writer.entry.deadline_s) < inf:
            idle_s = min(idle_s, max(deadline_s - self.last_line_s, 0.0) * IDLE_SHARE)
        return self.last_line_s + idle_s


@dataclass(slots=True, eq=False)
class BatchPacks:
    """The packs that are open. `endpoints` are those that take lines."""

    journal: BatchJournal
    endpoints: Sequence[BatchEndpoint]
    wall_clock: Callable[[], float]
    before_pack: Callable[[], None]
    """Called before the first line of each pack is written."""
    _packs: dict[tuple[int, BatchGroup], _Pack] = field(default_factory=dict)
    _not_here: set[tuple[int, str]] = field(default_factory=set)

    @property
    def lines(self) -> int:
        """Return the number of lines in open packs."""
        return sum(pack.writer.entry.lines for pack in self._packs.values())

    def __len__(self) -> int:
        return len(self._packs)

    def exclude(self, endpoint: BatchEndpoint, path: str) -> None:
        """Pack no more lines with this path for an endpoint."""
        self._not_here.add((endpoint.index, path))

    def takes(self, request: Request) -> bool:
        """Return whether an endpoint takes a request by batch."""
        return bool(self._choices(request))

    def add(self, requests: Sequence[Request], form: RowForm | None) -> tuple[list[Closed], list[Request]]:
        """Pack lines. Return the packs that are full, and the lines that cannot go by batch after all."""
        closed: list[Closed] = []
        rest: list[Request] = []
        for request in requests:
            choices = self._choices(request)
            if not choices:
                rest.append(request)
                continue
            endpoint, group = self._choose(choices)
            pack = self._packs.get((endpoint.index, group)) or self._open(endpoint, group, request)
            limits, entry = endpoint.api.limits, pack.writer.entry
            rendered = endpoint.render(request, custom_id_of(entry.mark, entry.lines))
            if len(rendered) + (1 << 10) > limits.max_bytes:
                rest.append(request)
                continue
            if entry.lines and entry.size_bytes + len(rendered) > limits.max_bytes:
                closed.append(self._close((endpoint.index, group)))
                pack = self._open(endpoint, group, request)
                entry = pack.writer.entry
                rendered = endpoint.render(request, custom_id_of(entry.mark, 0))
            pack.writer.add(request, rendered, form)
            pack.last_line_s = self.wall_clock()
            endpoint.lines += 1
            if entry.lines >= limits.max_lines:
                closed.append(self._close((endpoint.index, group)))
        return closed, rest

    def close_idle(self) -> list[Closed]:
        """Close the packs that have had no new line for a while."""
        now = self.wall_clock()
        return [self._close(key) for key, pack in list(self._packs.items()) if pack.closes_at_s() <= now]

    def close_all(self) -> list[Closed]:
        """Close all packs: no more lines come."""
        return [self._close(key) for key in list(self._packs)]

    def next_close_s(self) -> float:
        """Return the wall time at which the next pack is closed; infinity without packs."""
        return min((pack.closes_at_s() for pack in self._packs.values()), default=inf)

    def _choices(self, request: Request) -> list[tuple[BatchEndpoint, BatchGroup]]:
        found = ((endpoint, endpoint.group_of(request)) for endpoint in self.endpoints)
        return [(e, group) for e, group in found if group is not None and (e.index, group.path) not in self._not_here]

    def _choose(self, choices: Sequence[tuple[BatchEndpoint, BatchGroup]]) -> tuple[BatchEndpoint, BatchGroup]:
        """Return the choice with an open pack, so that packs get full; else the one with the fewest lines so far."""
        for endpoint, group in choices:
            if (endpoint.index, group) in self._packs:
                return endpoint, group
        return min(choices, key=lambda choice: choice[0].lines / choice[0].weight)

    def _open(self, endpoint: BatchEndpoint, group: BatchGroup, request: Request) -> _Pack:
        self.before_pack()
        self.journal.create_folder()
        entry = BatchEntry(new_mark(), endpoint.name, group.path, endpoint.model_of(request), 0, 0)
        pack = self._packs[endpoint.index, group] = _Pack(PackWriter(self.journal, entry), endpoint)
        return pack

    def _close(self, key: tuple[int, BatchGroup]) -> Closed:
        pack = self._packs.pop(key)
        pack.writer.finish()
        self.journal.add(pack.writer.entry)
        return pack.writer.entry, pack.endpoint
