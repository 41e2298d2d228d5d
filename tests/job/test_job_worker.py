"""Workers: what they make of lines, orders and replies is what a run of one process makes of them."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.job import intake as intake_module
from llmblast.job import worker as worker_module
from llmblast.mocking.server import MockServer, Script, ScriptedReply
from llmblast.mocking.settings import MockSettings
from llmblast.reading import LineSplitter, Shaper
from llmblast.records import Cause
from tests.conftest import write_prompts
from tests.job.job_crew import HANG_S, a_crew

NOBODY = "http://127.0.0.1:9/v1"
ANSWERED = orjson.dumps({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]})
EMBEDDED = orjson.dumps({"data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 1}})
LINES = [
    b'{"id": "own", "input": "Hello", "fruit": "apple", "usage": "mine"}',
    b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}], "seed": 1}',
    b'{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}',
    b"not JSON",
    b'{"id": "named", "input": 5}',
    b'{"input": "' + b"x" * 2000 + b'"}',
    b'"\xff"',
    b'{"input": "the last one"}',
]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusing(text: bytes) -> Script:
    """Answers all but those with this text."""
    return lambda index, body: ScriptedReply(400 if text in body else 200, ANSWERED, {})


def failing_at_first(reply: ScriptedReply) -> Script:
    """The first request gets this, all others are answered."""
    return lambda index, body: reply if index == 0 else ScriptedReply(200, ANSWERED, {})


async def records_of(
    patch: pytest.MonkeyPatch, workers: int, script: Script | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Of `prompts.jsonl`, but for what no two runs have in common."""
    async with MockServer(script=script) as server:
        endpoints = [{"url": server.url, "name": "a"}]
        async with a_crew(patch, workers, input="prompts.jsonl", endpoints=endpoints, **settings) as bench:
            await bench.run()
            return [{**record, "latency": None} for record in bench.records]


@pytest.mark.parametrize("settings", [{}, {"echo": False}, {"body": "always", "model": "m"}], ids=str)
async def test_a_line_becomes_the_record_that_one_process_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Answered, refused, malformed or longer than a line may be."""
    monkeypatch.setattr(intake_module, "LineSplitter", partial(LineSplitter, 1000))
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(LINES))

    wanted = await records_of(monkeypatch, 0, refusing(b"seed"), **settings)
    records = await records_of(monkeypatch, 2, refusing(b"seed"), **settings)

    assert records == wanted
    assert [record["line"] for record in records] == list(range(1, 9))
    assert [record.get("code") for record in records] == [None, "http_400", None, *["bad_line"] * 4, None]


@pytest.mark.parametrize("transport", ["lean", "session"])
@pytest.mark.parametrize(
    ("first", "attempts", "maybe_billed"),
    [
        (ScriptedReply(500, b"{}", {"x-should-retry": "true"}), 2, None),
        (ScriptedReply(429, b"{}", {"retry-after": "0"}), 1, None),
        (ScriptedReply(200, b"no JSON", {}), 2, None),
        (ScriptedReply(200, ANSWERED, {}, break_connection=True), 2, 1),
    ],
    ids=["failed", "limited", "unusable", "broken"],
)
async def test_a_record_tells_what_happened_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    first: ScriptedReply,
    attempts: int,
    maybe_billed: int | None,
) -> None:
    """The worker renders it, and the run knows how often the line was sent."""
    write_prompts(tmp_path / "prompts.jsonl", 1)

    (record,) = await records_of(monkeypatch, 2, failing_at_first(first), transport=transport)

    assert (record["response"], record["attempts"], record.get("maybe_billed")) == ("yes", attempts, maybe_billed)


async def test_a_line_that_is_given_up_keeps_the_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been paid for, as often as it came."""
    (tmp_path / "prompts.jsonl").write_bytes(LINES[0])
    useless = ScriptedReply(200, b'{"no": "answer"}', {})

    (record,) = await records_of(monkeypatch, 1, lambda index, body: useless, max_attempts=2)

    assert (record["code"], record["attempts"], record["maybe_billed"]) == ("unusable_reply", 2, 2)
    assert (record["body"], record["id"], record["input"]) == ({"no": "answer"}, "own", "Hello")


class Straggling:
    """A script: the first request for the last line takes for ever, all else is answered at once."""

    def __init__(self, answer: bytes, last: bytes) -> None:
        self.stragglers = 0
        self._answer = answer
        self._last = last

    def __call__(self, index: int, body: bytes) -> ScriptedReply:
        is_straggler = self._last in body and not self.stragglers
        self.stragglers += is_straggler
        return ScriptedReply(200, self._answer, {}, delay_s=60.0 if is_straggler else 0.0)


def carriers() -> int:
    """Sends that have a task."""
    return sum("_carry" in repr(task.get_coro()) for task in asyncio.all_tasks())


@pytest.mark.parametrize("transport", ["lean", "session"])
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ({"id": "own", "fruit": "apple", "input": "Text %d."}, ANSWERED),
        ({"model": "m", "messages": [{"role": "user", "content": "Text %d."}]}, ANSWERED),
        ({"model": "m", "input": ["Text %d."]}, EMBEDDED),
    ],
    ids=["simple", "raw", "embeddings"],
)
async def test_the_loser_of_a_race_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, line: dict[str, Any], answer: bytes
) -> None:
    """The twin's answer is the line's, whatever was asked for, and nobody waits for the straggler."""
    text = orjson.dumps(line)
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(text % number for number in range(200)))
    script = Straggling(answer, b"Text 199.")
    async with MockServer(script=script) as one, MockServer(script=script) as two:
        settings: dict[str, Any] = {
            "endpoints": [one.url, two.url],
            "hedge": "p50",
            "format": "auto" if "id" in line else "raw",
            "transport": transport,
        }
        async with a_crew(monkeypatch, input="prompts.jsonl", concurrency=8, **settings) as bench:
            await bench.feed()
            await bench.until(lambda: len(bench.outcomes) == 199 and script.stragglers == 1)
            bench.stations.engine.refresh_counters()
            await bench.over()
            await bench.until(lambda: not carriers())

            assert sorted(success.request.number for success in bench.answered) == list(range(1, 201))
            assert bench.records[-1]["maybe_billed"] == 1
            assert {record.get("fruit") for record in bench.records} == {line.get("fruit")}
            assert bench.failed == []


async def test_connections_are_opened_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, the reason is told."""
    write_prompts(tmp_path / "prompts.jsonl", 1)
    async with (
        MockServer() as server,
        a_crew(monkeypatch, input="prompts.jsonl", endpoints=[server.url, NOBODY]) as bench,
        asyncio.timeout(HANG_S),
    ):
        (opened, failed) = await asyncio.gather(*(channel.warm_up(4) for channel in bench.stations.channels))

    assert opened is None
    assert failed is not None
    assert failed.cause is Cause.NOT_SENT
    assert "refused" in failed.detail


@pytest.mark.parametrize(("rps", "told_of"), [(1000.0, [(1, True)]), (None, [])])
async def test_a_request_that_leaves_late_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rps: float | None, told_of: list[tuple[int, bool]]
) -> None:
    """A connection has to be opened for the first one: a rate is told that it leaves after its admission."""
    write_prompts(tmp_path / "prompts.jsonl", 1)
    told: list[tuple[int, bool]] = []
    async with (
        MockServer() as server,
        a_crew(monkeypatch, input="prompts.jsonl", endpoints=[server.url], rps=rps) as bench,
    ):
        bench.stations.channels[0].on_late = lambda request, is_fresh: told.append((request.number, is_fresh))
        await bench.run()

    assert told == told_of


async def test_what_takes_too_long_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers sweep their own connections."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    async with MockServer(MockSettings.from_query("latency=60")) as server:
        settings: dict[str, Any] = {"endpoints": [server.url], "timeout": 0.1, "max_attempts": 1}
        async with a_crew(monkeypatch, input="prompts.jsonl", **settings) as bench:
            await bench.run()

    assert [record["code"] for record in bench.records] == ["timeout"] * 3
    assert [record["id"] for record in bench.records] == ["row-0", "row-1", "row-2"]


def a_bug(*_: Any, **__: Any) -> None:
    raise RuntimeError("a bug")


def in_rendering(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker_module, "render", a_bug)


def in_shaping(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shaper, "shape", a_bug)


def in_sending(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker_module.Worker, "_replied", a_bug)


@pytest.mark.parametrize(
    ("break_it", "hedge"), [(in_shaping, None), (in_rendering, None), (in_sending, None), (in_sending, "p95")]
)
async def test_a_defect_ends_the_worker_and_is_not_hidden(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    hedge: str | None,
) -> None:
    """Its process ends with a traceback, by which the run ends too; nobody waits for ever."""
    write_prompts(tmp_path / "prompts.jsonl", 1)
    async with MockServer() as one, MockServer() as two:
        settings: dict[str, Any] = {"endpoints": [one.url, two.url], "hedge": hedge}
        async with a_crew(monkeypatch, 1, input="prompts.jsonl", **settings) as bench:
            break_it(monkeypatch)
            feeding = asyncio.create_task(bench.feed())

            with pytest.raises(RuntimeError, match="a bug"):
                await asyncio.wait_for(bench.workers[0], HANG_S)

            feeding.cancel()
