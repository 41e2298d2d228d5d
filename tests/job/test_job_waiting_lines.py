"""Lines that were read ahead: the next one that goes is the most urgent of all that were read, in bounded memory."""

from math import inf
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.job.batch_parser import BatchParser
from llmblast.job.waiting_lines import Places, WaitingLines
from llmblast.models import Attempt, Request
from llmblast.reading.row_form import JsonLines
from llmblast.scheduling import RequestQueue
from llmblast.settings import Settings
from llmblast.watching import Counters
from tests.openai_provider import RequestParser

MAX_QUEUED = 16
NOW_S, WALL_S = 1000.0, 1_800_000_000.0
DEADLINES = st.sampled_from([None, 1_800_000_100, 1_800_000_200, 1_800_000_300.5])
LINES = st.fixed_dictionaries(
    {}, optional={"priority": st.sampled_from(["immediate", "deferred", -3, 2]), "deadline": DEADLINES}
)


class World:
    """A queue, the lines that wait on disk, and a reader. `read` holds the number and terms of what was not sent."""

    def __init__(self, *, can_take_back: bool = True) -> None:
        self.queue = RequestQueue(deferred_floor=0.0, wall_clock=lambda: WALL_S)
        form = JsonLines("prompts.jsonl")
        self.lines = WaitingLines(
            self.queue,
            Places({None: form}, RequestParser(Settings())),
            MAX_QUEUED,
            lambda terms: None,
            can_take_back=can_take_back,
            clock=lambda: NOW_S,
        )
        self.reader = BatchParser(RequestParser(Settings()), Counters(), None, None, None)
        self.reader.take_rows_of(form)
        self.reader.keep = self.lines.keep
        self.most = 0
        self._numbers = iter(range(10**6))

    def read(self, lines: list[dict[str, Any]]) -> None:
        texts = [orjson.dumps({"input": "x" * 50, **line}) for line in lines]
        for batch in self.reader.parse([(next(self._numbers), text) for text in texts]):
            self._accept(batch)
            self.lines.write()
        self.look()

    def look(self) -> None:
        for part in self.lines.parts_to_look_at(has_others=True):
            while batch := self.lines.next_batch(part):
                self._accept(batch)

    def send(self) -> Request | None:
        if self.queue.peek(NOW_S) is None:
            return None
        request = self.queue.pop(NOW_S).request
        if self.lines.on_sent(request):
            self.look()
        return request

    def _accept(self, batch: Any) -> None:
        for item in batch:
            assert isinstance(item, Request)
            self.queue.add(Attempt(item))
        self.most = max(self.most, len(self.queue))


def place_of(line: dict[str, Any]) -> tuple[bool, int, float]:
    priority = line.get("priority", 0)
    is_deferred = priority == "deferred" or (isinstance(priority, int) and priority < 0)
    return is_deferred, -priority if isinstance(priority, int) else 0, line.get("deadline") or inf


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(LINES, max_size=120), st.integers(0, 60)), max_size=5))
def test_the_most_urgent_line_of_all_that_were_read_goes_next(steps: list[tuple[list[dict[str, Any]], int]]) -> None:
    """By class, priority, deadline and the order of the input."""
    world, unsent, count = World(), list[tuple[tuple[bool, int, float], int]](), 0
    for lines, sends in [*steps, ([], 10**6)]:
        unsent += [(place_of(line), count + index) for index, line in enumerate(lines)]
        count += len(lines)
        world.read(lines)
        for _ in range(sends):
            request = world.send()
            if request is None:
                break
            expected = min(unsent)
            assert ((request.terms.is_deferred, -request.terms.priority, request.terms.deadline_s), request.number) == (
                expected
            )
            unsent.remove(expected)
    assert unsent == []
    assert (len(world.queue), len(world.queue.deadlines), world.queue.held_bytes >= 0) == (0, 0, True)
    assert world.most <= 2 * (2 * MAX_QUEUED + 64)


def test_every_tenant_has_lines_in_the_queue() -> None:
    """However many lines of others stand before."""
    world = World()
    for tenant in ("a", "b", "c"):
        world.read([{"tenant": tenant, "priority": "deferred"}] * 500)

    sent = [world.send() for _ in range(300)]

    tenants = [request.terms.tenant for request in sent if request is not None]
    assert {tenant: tenants.count(tenant) for tenant in tenants} == {"a": 100, "b": 100, "c": 100}
    assert world.most < 200


def test_large_lines_of_many_tenants_wait_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first one of a tenant, once lines take all the memory that they may."""
    monkeypatch.setattr("llmblast.job.waiting_lines.MAX_HELD_BYTES", 50_000)
    world, sent = World(), list[str]()
    world.read([{"tenant": f"t{number}", "priority": "deferred"} for number in range(1000)])
    most_bytes = world.queue.held_bytes

    while (request := world.send()) is not None:
        sent.append(request.terms.tenant)
        world.queue.held_bytes -= len(request.text) + len(request.body)
        most_bytes = max(most_bytes, world.queue.held_bytes)
        world.look()

    assert sorted(sent) == sorted(f"t{number}" for number in range(1000))
    assert most_bytes < 40_000


def test_late_lines_make_room_for_those_that_can_make_their_deadline() -> None:
    """And come back when nothing else has a deadline."""
    world = World()
    world.read([{"priority": "deferred", "deadline": WALL_S + 10}] * 100)
    world.read([{"priority": "deferred", "deadline": WALL_S + 900}] * 100 + [{"priority": "deferred"}] * 100)
    world.queue.lateness.expect(NOW_S, 50.0, 60.0)
    world.look()

    sent = [request.terms.deadline_s - WALL_S for _ in range(300) if (request := world.send()) is not None]

    assert sent == [900.0] * 100 + [10.0] * 100 + [inf] * 100


def test_lines_that_others_wait_for_stay_in_the_queue() -> None:
    """The order is not exact then, but nothing is lost or doubled, and memory is bounded."""
    world = World(can_take_back=False)
    for deadline in range(400, 0, -1):
        world.read([{"priority": "deferred", "deadline": WALL_S + deadline}])

    numbers = [request.number for _ in range(400) if (request := world.send()) is not None]

    assert sorted(numbers) == list(range(400))
    assert world.most <= 2 * MAX_QUEUED + 65
