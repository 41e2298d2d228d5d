"""Lines that need no request of their own: known answers, and equal requests under way."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from llmblast.caching import StoreError, StoreThread
from llmblast.caching.answer_store import AnswerStore
from llmblast.checking_answers import AnswerChecks, open_checks
from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.job import single_sends
from llmblast.job.batch_parser import Batch
from llmblast.job.single_sends import SingleSends, request_keys
from llmblast.models import Answer, Failure, Line, Outcome, Reply, Request, Success
from llmblast.providers import providers_of
from llmblast.settings import Settings
from llmblast.watching import Counters

SETTINGS = Settings(endpoints=(EndpointSettings(url="http://h/v1", name="gpu1"),), model="m")


class Sink:
    def __init__(self) -> None:
        self.is_full = False
        self.outcomes: list[Outcome] = []
        self.left_out: list[Line] = []

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def leave_out(self, line: Line) -> None:
        self.left_out.append(line)

    @property
    def told(self) -> list[tuple[int, object, bool]]:
        """Line, answer or error, and whether it was cached, of each outcome."""
        return [
            (o.request.number, o.answer.text, o.cached) if isinstance(o, Success) else (o.line.number, o.error, False)
            for o in self.outcomes
        ]


class World:
    """Everything around the object under test."""

    def __init__(self, store: AnswerStore | None = None, checks: AnswerChecks | None = None) -> None:
        self.sink, self.counters = Sink(), Counters()
        self.stopped: list[tuple[ExitCode, str]] = []
        self.store = StoreThread(store or AnswerStore(None), pytest.fail)
        self.sends = SingleSends(
            request_keys(SETTINGS),
            self.store,
            self.sink,
            self.counters,
            providers=providers_of(SETTINGS.endpoints),
            names=["gpu1"],
            stop=lambda code, reason: self.stopped.append((code, reason)),
            fence=Fence(),
            checks=checks,
        )

    async def sent(self, *batches: Iterable[Request | Failure]) -> list[Request | Failure]:
        """Return what of the batches has to be sent; nothing of it is answered yet."""
        return [item async for batch in self.sends.batches(_all(batches)) for item in batch]


async def _all(batches: Iterable[Iterable[Request | Failure]]) -> AsyncIterator[Batch]:
    for batch in batches:
        yield list(batch)


def ask(number: int, text: str = "hi") -> Request:
    body = orjson.dumps({"messages": [{"role": "user", "content": text}]})
    return Request(number, f"{number:016x}", b"{}", number, body=body, needs_model=True)


def reply_with(text: str, finish_reason: str = "stop") -> Reply:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    return Reply(200, body=orjson.dumps({"choices": [choice], "model": "m"}))


def success(request: Request, text: str = "yes", finish_reason: str = "stop") -> Success:
    return Success(request, Answer(text, finish_reason, model="m"), reply_with(text, finish_reason), "gpu1", 2, 1)


async def test_equal_requests_go_once_and_each_line_is_answered() -> None:
    """In the same batch or in a later one, before the answer or after it."""
    world = World()
    first, other = ask(1), ask(2, "else")

    assert await world.sent([first, ask(3)], [other, ask(4)]) == [first, other]
    world.sends.put(success(first))
    assert await world.sent([ask(5)]) == []

    assert world.sink.told == [(1, "yes", False), (3, "yes", True), (4, "yes", True), (5, "yes", True)]
    assert (world.counters.succeeded, world.counters.cached) == (3, 3)
    copies = [outcome for outcome in world.sink.outcomes[1:] if isinstance(outcome, Success)]
    assert {(copy.attempts, copy.maybe_billed, copy.endpoint, copy.reply.latency_s) for copy in copies} == {
        (0, 0, "", 0)
    }
    await world.store.close()


async def test_a_failure_is_that_of_all_lines_that_waited_for_it() -> None:
    """They would have asked for the same; a line that comes later is sent."""
    world = World()
    first, later = ask(1), ask(3)
    await world.sent([first, ask(2)])

    world.sends.put(Failure(first, "is wrong", "bad", 400, endpoint="gpu1", attempts=3, maybe_billed=1, body=b"x"))

    assert world.sink.told == [(1, "is wrong", False), (2, "is wrong", False)]
    copy = world.sink.outcomes[1]
    assert isinstance(copy, Failure)
    assert (copy.code, copy.status, copy.attempts, copy.maybe_billed, copy.body) == ("bad", 400, 0, 0, b"")
    assert world.counters.failed == 1
    assert await world.sent([later]) == [later]
    await world.store.close()


@pytest.mark.parametrize("finish_reason", ["content_filter", "SAFETY", "refusal"])
async def test_an_answer_that_a_filter_has_stopped_is_not_kept(finish_reason: str) -> None:
    """Another try may get through."""
    world = World()
    first, again = ask(1), ask(2)
    await world.sent([first])
    world.sends.put(success(first, "I can", finish_reason))

    assert await world.sent([again]) == [again]
    await world.store.close()


@pytest.mark.parametrize("finish_reason", ["stop", "length", "tool_calls"])
async def test_a_whole_or_cut_off_answer_is_kept(finish_reason: str) -> None:
    """The same request has the same max_tokens."""
    world = World()
    first = ask(1)
    await world.sent([first])
    world.sends.put(success(first, "I can", finish_reason))

    assert await world.sent([ask(2)]) == []
    assert world.counters.flagged == (finish_reason == "length")
    await world.store.close()


async def test_a_reply_that_is_no_answer_any_more_is_asked_for_again() -> None:
    """What counts as an answer may change from one version to the next."""
    world = World()
    first, again = ask(1), ask(2)
    await world.sent([first])
    world.sends.put(replace(success(first), reply=Reply(200, body=b'{"error":"later"}')))

    assert await world.sent([again]) == [again]
    await world.store.close()


async def test_bad_lines_pass() -> None:
    """They have no request."""
    world = World()
    bad = Failure(Line(1, "0" * 16, b"x", 1), "bad", "bad_line")

    assert await world.sent([bad]) == [bad]
    world.sends.put(bad)
    assert world.sink.outcomes == [bad]
    await world.store.close()


async def test_the_answer_to_a_request_that_was_changed_counts_for_its_line() -> None:
    """As where an answer is asked for again with other words."""
    world = World()
    first = ask(1)
    await world.sent([first, ask(2)])

    world.sends.put(success(replace(first, body=b'{"messages":[1]}')))

    assert await world.sent([ask(3)]) == []
    assert [line for line, _, _ in world.sink.told] == [1, 2, 3]
    await world.store.close()


async def test_the_reader_waits_while_too_many_lines_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the file: memory does not grow with equal lines."""
    monkeypatch.setattr(single_sends, "MAX_WAITING", 3)
    world = World()
    first = ask(1)
    reading = asyncio.create_task(world.sent([first], [ask(n) for n in range(2, 5)], [ask(5)]))
    await world.store.find([b"a search behind those of the batches"])
    await asyncio.sleep(0.01)
    assert not reading.done()

    world.sends.put(success(first))

    assert await reading == [first]
    assert [line for line, _, _ in world.sink.told] == [1, 2, 3, 4, 5]
    await world.store.close()


async def test_nothing_waits_for_a_request_that_was_left_for_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no outcome: its lines are pending with it, and the input is read to its end."""
    monkeypatch.setattr(single_sends, "MAX_WAITING", 1)
    world = World()
    first = ask(1)
    reading = asyncio.create_task(world.sent([first], [ask(2)], [ask(3)]))
    await asyncio.sleep(0.01)
    assert not reading.done()

    world.counters.left_pending = 1

    assert await reading == [first]
    assert world.sink.outcomes == []
    await world.store.close()


class Unreadable(AnswerStore):
    def find(self, keys: object) -> dict[bytes, bytes]:
        raise StoreError("c.db: is damaged: remove it or name another file")


async def test_a_store_that_cannot_be_read_ends_the_run() -> None:
    """Going on would pay for what is there."""
    world = World(Unreadable(None))

    assert await world.sent([ask(1)]) == []
    assert world.stopped == [(ExitCode.OUTPUT_FAILED, "c.db: is damaged: remove it or name another file")]
    await world.store.close()


async def test_the_run_is_held_back_by_sink_and_store() -> None:
    """Neither may grow in memory."""
    world = World()
    seen = [world.sends.is_full]
    world.sink.is_full = True

    assert [*seen, world.sends.is_full] == [False, True]
    await world.store.close()


async def test_lines_that_wait_for_one_that_is_left_out_are_left_out_with_it() -> None:
    """They are pending together: the next run sends the request, and answers all of them."""
    world = World()
    first = ask(1)
    await world.sent([first, ask(2)], [ask(3), ask(4, "else")])

    world.sends.leave_out(first)

    assert [line.number for line in world.sink.left_out] == [1, 2, 3]
    assert world.counters.left_pending == 2
    assert world.sink.outcomes == []
    assert [item.line.number if isinstance(item, Failure) else item.number for item in await world.sent([ask(5)])] == [
        5
    ]
    await world.store.close()


async def test_a_failure_counts_for_each_line_that_waits_and_nothing_is_kept() -> None:
    """None is lost and none is sent by itself; another line later tries again."""
    world = World()
    first, later = ask(1), ask(4)
    await world.sent([first, ask(2), ask(3)])

    world.sends.put(Failure(first, "no", "http_500", 500, attempts=3, transient=True, endpoint="gpu1"))

    assert await world.sent([later]) == [later]
    assert world.sink.told == [(1, "no", False), (2, "no", False), (3, "no", False)]
    copies = [outcome for outcome in world.sink.outcomes[1:] if isinstance(outcome, Failure)]
    assert {(copy.attempts, copy.maybe_billed, copy.transient, copy.code) for copy in copies} == {
        (0, 0, True, "http_500")
    }
    await world.store.close()


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        (Settings(expect="json"), False),
        (Settings(expect_regex="^ye"), True),
        (Settings(expect_regex="^no"), False),
        (Settings(expect_command="grep -q yes"), True),
        (Settings(expect_command="grep -q no"), False),
    ],
)
async def test_a_known_answer_is_checked_as_any_other(settings: Settings, fits: bool) -> None:
    """The checks may be others than when it came; one that does not fit is asked for again, and replaced."""
    store = AnswerStore(None)
    before = World(store)
    first, again, last = ask(1), ask(2), ask(3)
    await before.sent([first])
    before.sends.put(success(first))
    world = World(store, open_checks(settings))
    world.store = before.store
    world.sends._store = before.store

    assert await world.sent([again]) == ([] if fits else [again])
    if not fits:
        world.sends.put(success(again, "new"))
        assert await before.sent([last]) == []
        assert before.sink.told[-1] == (3, "new", True)
    await before.store.close()


async def test_a_command_that_cannot_run_ends_the_run_before_anything_is_sent() -> None:
    """No answer is to blame."""
    world = World()
    first = ask(1)
    await world.sent([first])
    world.sends.put(success(first))
    world.sends._checks = open_checks(Settings(expect_command="/no/such/program '{}'"))

    assert await world.sent([ask(2)]) == []
    ((code, reason),) = world.stopped
    assert code is ExitCode.GAVE_UP
    assert "--expect-command: cannot be run (exit code 127)" in reason
    await world.store.close()


async def test_the_command_reads_equal_answers_once(tmp_path: Path) -> None:
    """Ten thousand equal lines do not run it ten thousand times."""
    store = AnswerStore(None)
    before = World(store)
    world = World(store, open_checks(Settings(expect_command=f"echo >> {tmp_path / 'runs'}")))
    before.sends._store = world.store
    for asked, of in ((ask(1), world), (ask(2, "else"), before)):
        await of.sent([asked])
        of.sends.put(success(asked))

    assert await world.sent(*([ask(n), ask(n + 1, "else")] for n in range(3, 9))) == []
    assert (tmp_path / "runs").read_text() == "\n"
    await world.store.close()
