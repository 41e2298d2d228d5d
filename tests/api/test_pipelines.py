"""Pipelines in Python: stages in memory, and with files."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import llmblast
from llmblast import Stage
from llmblast.errors import ExitCode, GaveUpError, RefusedError, UsageError
from llmblast.job.result_records import record_of
from llmblast.mocking.server import ScriptedReply
from llmblast.results import Result
from tests.conftest import ROOT, StartMock, records


def stages(**judge: Any) -> list[Stage]:
    return [Stage("draft"), Stage("judge", prompt="Judge: {response}", **judge)]


def rejecting(text: bytes) -> Any:
    return lambda index, body: ScriptedReply(400, b'{"error": {"message": "no"}}') if text in body else None


async def collect(prompts: Any, **options: Any) -> list[Result]:
    return [result async for result in llmblast.pipeline(prompts, model="m", **options)]


async def test_each_prompt_has_the_answer_of_the_last_stage(start_mock: StartMock) -> None:
    """With the first answer among its fields, and its place among the prompts."""
    prompts = [{"id": f"row-{n}", "input": f"Question {n}?", "team": n} for n in range(300)]

    results = await collect(prompts, stages=stages(), endpoints=[start_mock().url])

    assert sorted(result.index for result in results) == list(range(300))
    for result in results:
        assert (result.ok, result.stage, result.id) == (True, "judge", f"row-{result.index}")
        assert result.fields["team"] == result.index
        assert result.input == f"Judge: {result.fields['response']}"


async def test_a_prompt_that_fails_early_has_its_result(start_mock: StartMock) -> None:
    """Of the stage that it failed in; the others go on."""
    failing, server = start_mock(script=rejecting(b"seven")), start_mock()
    plan = [Stage("draft", endpoints=[failing.url]), Stage("judge", endpoints=server.url, prompt="{response}")]

    results = await collect(["one", "seven", "two", {"input": 3}], stages=plan)

    by_index = {result.index: (result.stage, result.ok) for result in results}
    assert by_index == {0: ("judge", True), 1: ("draft", False), 2: ("judge", True), 3: ("draft", False)}
    assert server.received == 2


async def test_a_slow_stage_slows_the_one_before_it(start_mock: StartMock) -> None:
    """Memory stays small: the first stage waits for the second one."""
    first, second = start_mock(), start_mock("latency=30")
    plan = [
        Stage("draft", endpoints=[first.url], concurrency=8),
        Stage("judge", endpoints=[second.url], prompt="{response}", concurrency=2),
    ]

    async with aclosing(llmblast.pipeline((f"Q {n}" for n in range(100_000)), stages=plan, model="m")) as results:
        waiting = asyncio.ensure_future(anext(results))
        seen = -1
        while seen != first.received or not seen:
            seen = first.received
            await asyncio.wait([waiting], timeout=0.5)
        waiting.cancel()
        await asyncio.wait([waiting])

    assert 0 < first.received < 3000


async def test_leaving_the_loop_ends_all_stages(start_mock: StartMock) -> None:
    """Nothing is left behind."""
    server = start_mock("latency=0.01")

    async with aclosing(llmblast.pipeline(["a"] * 5000, stages=stages(), endpoints=[server.url], model="m")) as results:
        async for _ in results:
            break
    count = server.received
    gc.collect()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert count < 5000
    assert others == []


async def test_an_error_of_the_prompts_reaches_the_caller(start_mock: StartMock) -> None:
    """Behind the results of those before it."""

    async def prompts() -> AsyncIterator[str]:
        yield "one"
        raise LookupError("mine")

    results = llmblast.pipeline(prompts(), stages=stages(), endpoints=[start_mock().url], model="m")
    first = await anext(results)
    with pytest.raises(LookupError, match="mine"):
        await anext(results)

    assert (first.index, first.stage) == (0, "judge")


@pytest.mark.parametrize("which", [0, 1])
async def test_a_stage_that_is_refused_ends_the_pipeline(start_mock: StartMock, which: int) -> None:
    """With the error of a run without stages."""
    urls = [start_mock().url] * 2
    urls[which] = start_mock(script=lambda index, body: ScriptedReply(401, b"{}")).url
    plan = [Stage("draft", endpoints=[urls[0]]), Stage("judge", endpoints=[urls[1]], prompt="{response}")]

    with pytest.raises(RefusedError):
        await collect(["a"] * 30, stages=plan)


async def test_a_stage_that_gives_up_ends_the_pipeline(start_mock: StartMock) -> None:
    """Before all is paid for."""
    server = start_mock(
        script=lambda index, body: ScriptedReply(400, b"{}") if b"Judge" in body and index % 3 == 0 else None
    )

    with pytest.raises(GaveUpError):
        await collect(["a"] * 3000, stages=stages(max_errors=3), endpoints=[server.url])

    assert server.received < 3000


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ([], {}, "stages: is empty"),
        (["draft"], {}, r"stages\[0\]: str is not a stage: write llmblast\.Stage"),
        ([Stage("a"), Stage("b")], {}, r"stages\[1\]\.prompt: is missing"),
        ([Stage("a"), Stage("a", prompt="x")], {}, r"stages\[1\]\.name: a is the name of another stage"),
        ([Stage("a", rps=-1)], {}, r"stages\[0\]\.rps: -1 is not allowed"),
        ([Stage("a", limit=3)], {}, r"stages\[0\]\.limit: holds for the whole run: "),
        ([Stage("a", save="x.jsonl")], {}, r"stages\[0\]\.save: has no meaning without files: use run_pipeline"),
        ([Stage("a")], {"save": "x"}, "save: stream\\(\\) writes no files"),
        ([Stage("a")], {"config": "x.toml"}, "config: the stages are given already"),
        ([Stage("a", endpoints=[])], {"endpoints": None}, "no endpoint"),
    ],
)
async def test_wrong_settings_are_told_at_once(plan: list[Any], options: dict[str, Any], message: str) -> None:
    """Not at the first result."""
    keywords: dict[str, Any] = {"stages": plan, "endpoints": ["mock:"], **options}

    with pytest.raises(UsageError, match=message):
        llmblast.pipeline(["a"], **keywords)


async def test_with_files_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_mock: StartMock
) -> None:
    """Also where the command line left off: the files are the same."""
    monkeypatch.chdir(tmp_path)
    server = start_mock()
    prompts = [f"Question {n}?" for n in range(20)]
    options: Any = {"stages": stages(save=tmp_path / "out.jsonl"), "endpoints": [server.url], "model": "m"}

    first = await llmblast.run_pipeline(prompts[:10], **options)
    second = await llmblast.run_pipeline(prompts, **options)

    assert (first.ok, second.exit_code) == (True, ExitCode.OK)
    figures = {name: (stage.answered, stage.skipped) for name, stage in second.stages.items()}
    assert figures == {"draft": (10, 10), "judge": (10, 10)}
    assert len(records(tmp_path / "out.jsonl")) == 20
    assert server.received == 40


async def test_stages_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_mock: StartMock) -> None:
    """As for the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text('[[stage]]\nname = "a"\n[[stage]]\nname = "b"\nprompt = "{response}"')
    (tmp_path / "a.txt").write_text("one\ntwo\n")

    summary = await llmblast.run_pipeline(
        "a.txt", config="two.toml", format="text", endpoints=[start_mock().url], model="m"
    )

    assert {name: stage.answered for name, stage in summary.stages.items()} == {"a": 2, "b": 2}


async def test_a_cancelled_run_drains_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_mock: StartMock
) -> None:
    """What was sent is written."""
    monkeypatch.chdir(tmp_path)
    server = start_mock("latency=0.05")
    running = asyncio.ensure_future(
        llmblast.run_pipeline(["a"] * 3000, stages=stages(), endpoints=[server.url], model="m", rps=200)
    )
    while not server.received:
        await asyncio.wait([running], timeout=0.01)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    written = len(records(tmp_path / "draft.jsonl")) + len(records(tmp_path / "judge.jsonl"))
    assert server.received == written < 3000


@pytest.mark.parametrize("fields", [{}, {"team": 3}, {"model": "mine", "team": 3}])
def test_a_result_becomes_the_record_that_a_file_would_have(fields: dict[str, object]) -> None:
    """With the fields in the same places."""
    result = Result(index=4, id="x", key="00000000000000ab", response="a", repeat=2, parsed={"b": 1}, fields=fields)

    record = record_of(result)

    assert list(record)[:4] == ["key", "line", "repeat", "id"]
    assert (record["line"], record["response"], record["parsed"], record.get("team")) == (
        5,
        "a",
        {"b": 1},
        fields.get("team"),
    )
    assert record.get("fields") == ({"model": "mine"} if "model" in fields else None)


def test_a_file_with_stages_is_not_for_one_run(tmp_path: Path) -> None:
    """The error names what to call."""
    (tmp_path / "two.toml").write_text('[[stage]]\nname = "a"')

    with pytest.raises(UsageError, match=r"two\.toml: \[\[stage\]\]: .*llmblast\.run_pipeline"):
        llmblast.run(["a"], config=tmp_path / "two.toml")


def test_the_example_of_the_readme_runs() -> None:
    """As it stands there."""
    example = ROOT / "tests" / "api" / "readme_pipeline.py"

    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert sorted(int(line.split()[1]) for line in done.stdout.splitlines()) == list(range(100))
    assert all(line.startswith("judge ") for line in done.stdout.splitlines())
    assert f"```python\n{example.read_text()}```" in (ROOT / "README.md").read_text()
