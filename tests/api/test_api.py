"""The library's front door: prompts from a program in, typed results or files out, on whatever loop runs."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

import llmblast
from llmblast.api import OF_FILES
from llmblast.mocking.server import MockServer, ScriptedReply
from llmblast.mocking.settings import MockSettings
from llmblast.option_types import RunOptions, StreamOptions
from llmblast.settings import Settings
from tests.conftest import ROOT, StartMock, records, unmeasured, write_prompts

QUESTIONS = [f"Question {n}?" for n in range(200)]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def collect(prompts: Any, **settings: Any) -> list[llmblast.Result]:
    return [result async for result in llmblast.stream(prompts, **settings)]


def own_tasks() -> set["asyncio.Task[Any]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def open_sockets() -> int:
    """How many descriptors of this process are sockets."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 -- what is waited for is another's state
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("make_loop", LOOPS)
def test_every_prompt_has_its_result_on_any_loop(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """With its own place, whatever the order in which replies come; the server runs on the same loop."""

    async def go() -> list[llmblast.Result]:
        async with MockServer(MockSettings.from_query("latency=0.01")) as server:
            return await collect(QUESTIONS, endpoints=[server.url], model="m")

    with asyncio.Runner(loop_factory=make_loop) as runner:
        results = runner.run(go())

    assert sorted(result.index for result in results) == list(range(200))
    assert all(result.input == QUESTIONS[result.index] for result in results)
    assert all(result.ok and result.status == 200 and result.attempts == 1 for result in results)
    assert all(result.usage and result.finish_reason and result.latency_s > 0 for result in results)


async def test_prompts_of_all_kinds_keep_their_ids_and_fields(start_mock: StartMock) -> None:
    """Simple dicts, raw bodies, batch lines and strings; numbers beyond 64 bits stay whole."""
    server = start_mock()
    prompts: list[Any] = [
        "text",
        {"id": "a", "input": "simple", "mine": {"deep": [2**70, 0.1]}},
        {"messages": [{"role": "user", "content": "raw"}]},
        {
            "custom_id": "b",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "batch"}]},
        },
    ]

    results = sorted(await collect(iter(prompts), endpoints=[server.url], model="m"), key=lambda r: r.index)

    assert [result.id for result in results] == [1, "a", 3, "b"]
    assert [result.ok for result in results] == [True] * 4
    assert results[1].fields == {"mine": {"deep": [2**70, 0.1]}}


async def test_a_path_is_read_as_a_file(start_mock: StartMock, tmp_path: Path) -> None:
    """As a text or as a Path."""
    path, server = write_prompts(tmp_path / "prompts.jsonl", 5), start_mock()

    for prompts in (path, str(path)):
        results = await collect(prompts, endpoints=server.url, model="m")

        assert sorted(str(result.id) for result in results) == [f"row-{n}" for n in range(5)]


async def test_several_files_are_read_in_their_order(start_mock: StartMock, tmp_path: Path) -> None:
    """As texts, as Paths, or as a pattern; each result has the name of its file and its place in that."""
    a, b = (write_prompts(tmp_path / name, 2, start) for name, start in (("b.jsonl", 0), ("a.jsonl", 2)))
    options: dict[str, Any] = {"endpoints": start_mock().url, "model": "m"}

    given: list[Sequence[str | Path]] = [[a, b], [str(a), str(b)], (str(a), b)]
    for prompts in given:
        summary = await llmblast.run_async(prompts, **options)
        assert [(r.file, r.index, r.id) for r in summary.results] == [
            *((str(a), index, f"row-{index}") for index in (0, 1)),
            *((str(b), index, f"row-{index + 2}") for index in (0, 1)),
        ]
    assert [r.id for r in (await llmblast.run_async(str(tmp_path / "*.jsonl"), **options)).results] == [
        "row-2",
        "row-3",
        "row-0",
        "row-1",
    ]


async def test_texts_that_are_no_names_of_files_are_prompts(start_mock: StartMock) -> None:
    """One of them is enough."""
    prompts = ["a.jsonl", "What is in b.jsonl"]

    results = await collect(prompts, endpoints=start_mock().url, model="m")

    assert sorted(result.input for result in results) == sorted(prompts)
    assert {result.file for result in results} == {None}


async def test_a_failed_prompt_is_a_result_with_its_error(start_mock: StartMock) -> None:
    """What the server rejects, and what no request can be made of; the iteration goes on."""
    server = start_mock(
        script=lambda index, body: (
            ScriptedReply(400, b'{"error":{"message":"bad","code":"no"}}') if b"wrong" in body else None
        )
    )
    prompts = ["good", "wrong", {"mine": 1}, "half \ud800 character"]

    results = sorted(await collect(prompts, endpoints=[server.url], model="m"), key=lambda r: r.index)

    assert [result.ok for result in results] == [True, False, False, False]
    assert (results[1].status, results[1].code) == (400, "no")
    assert "bad" in (results[1].error or "")
    assert [result.code for result in results[2:]] == ["bad_line", "bad_line"]


async def test_limits_are_kept(start_mock: StartMock) -> None:
    """A rate and a concurrency given as keywords hold as on the command line."""
    server = start_mock("latency=0.02")

    await collect(QUESTIONS[:40], endpoints=[{"url": server.url, "rps": "100", "concurrency": 3}], model="m")

    moments = sorted(arrival.arrived_s for arrival in server.ledger)
    assert moments[-1] - moments[0] >= 39 / 100 * 0.95
    assert len(moments) == 40


async def test_endpoint_settings_are_taken_and_checked(start_mock: StartMock) -> None:
    """An object as the library exports it."""
    endpoint = llmblast.EndpointSettings(url=start_mock().url, name="mine", model="m")

    results = await collect(["x"], endpoints=[endpoint])

    assert [result.endpoint for result in results] == ["mine"]


async def test_a_slow_consumer_slows_the_run(start_mock: StartMock) -> None:
    """While one result is being worked off, only so many more are paid for, and so many prompts taken."""
    server, taken = start_mock(), 0

    def prompts() -> Iterator[str]:
        nonlocal taken
        for taken in range(100_000):
            yield f"Question {taken}?"

    async with aclosing(llmblast.stream(prompts(), endpoints=[server.url], model="m", concurrency=8)) as results:
        await anext(results)
        sent = -1
        while sent != server.received:
            sent = server.received
            await asyncio.sleep(0.3)

        assert sent <= 400
        assert taken <= 1000
        async for result in results:
            if result.index > 2000:
                break


async def test_large_results_fill_the_queue_by_their_bytes(start_mock: StartMock) -> None:
    """A few large answers count like many small ones."""
    large = orjson.dumps({"choices": [{"message": {"content": "x" * 1_000_000}, "finish_reason": "stop"}]})
    server = start_mock(script=lambda index, body: ScriptedReply(200, large))

    async with aclosing(llmblast.stream(QUESTIONS, endpoints=[server.url], model="m", concurrency=4)) as results:
        await anext(results)
        sent = -1
        while sent != server.received:
            sent = server.received
            await asyncio.sleep(0.3)

        assert sent <= 20


async def _break(url: str) -> None:
    async for _ in llmblast.stream((q for q in QUESTIONS * 100), endpoints=[url], model="m"):
        break


async def _aclose(url: str) -> None:
    results = llmblast.stream(QUESTIONS * 100, endpoints=[url], model="m")
    await anext(results)
    await results.aclose()


async def _time_out(url: str) -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012 -- the loop is what raises
        async with asyncio.timeout(0.3):
            async for _ in llmblast.stream(QUESTIONS * 100, endpoints=[url], model="m", rps=20):
                pass


async def _cancel(url: str) -> None:
    task = asyncio.create_task(collect(QUESTIONS * 100, endpoints=[url], model="m", rps=20))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _cancel_between_two_results(url: str) -> None:
    async def go() -> None:
        async for _ in llmblast.stream(QUESTIONS * 100, endpoints=[url], model="m"):
            reached.set()
            await asyncio.Event().wait()

    reached = asyncio.Event()
    task = asyncio.create_task(go())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _cancel_at_once(url: str) -> None:
    task = asyncio.create_task(collect(QUESTIONS, endpoints=[url], model="m"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _fail_in_the_loop(url: str) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the loop is what raises
        async for result in llmblast.stream(QUESTIONS * 100, endpoints=[url], model="m"):
            _ = result.index / 0


async def _cancel_while_the_prompts_wait(url: str) -> None:
    async def prompts() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    async with aclosing(llmblast.stream(prompts(), endpoints=[url], model="m")) as results:
        await anext(results)


async def _break_out_of_a_chain(url: str) -> None:
    first = llmblast.stream(QUESTIONS, endpoints=[url], model="m")
    texts = (str(result.response) async for result in first)
    async with aclosing(llmblast.stream(texts, endpoints=[url], model="m")) as results:
        await anext(results)


@pytest.mark.parametrize("make_loop", LOOPS)
@pytest.mark.parametrize(
    "leave",
    [
        _break,
        _aclose,
        _time_out,
        _cancel,
        _cancel_between_two_results,
        _cancel_at_once,
        _fail_in_the_loop,
        _cancel_while_the_prompts_wait,
        _break_out_of_a_chain,
    ],
)
def test_whoever_leaves_leaves_nothing_behind(
    start_mock: StartMock, leave: Callable[[str], Any], make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """No task, no socket, no warning, and nothing more is sent."""
    server = start_mock("latency=0.05")
    left: list[Any] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: left.append(context))
        before = open_sockets()
        await leave(server.url)
        gc.collect()
        await until(lambda: not own_tasks())
        received = server.received
        gc.collect()
        await until(lambda: open_sockets() <= before)
        await asyncio.sleep(0.1)
        assert server.received == received

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(go())

    assert left == []


def test_a_loop_that_ends_with_a_run_under_way_ends_in_order(start_mock: StartMock) -> None:
    """As when `break` is the last thing that a program does."""
    server = start_mock("latency=0.05")

    asyncio.run(_break(server.url))
    gc.collect()


async def test_two_runs_at_once_keep_apart(start_mock: StartMock) -> None:
    """Each has its own limits and results."""
    one, two = start_mock(), start_mock("latency=0.02")

    first, second = await asyncio.gather(
        collect(QUESTIONS, endpoints=[f"{one.url},name=one"], model="m"),
        collect(QUESTIONS[:50], endpoints=[f"{two.url},name=two"], model="m", concurrency=5),
    )

    assert (len(first), {result.endpoint for result in first}) == (200, {"one"})
    assert (len(second), {result.endpoint for result in second}) == (50, {"two"})
    assert (one.received, two.received) == (200, 50)


def _failing() -> Iterator[str]:
    yield from QUESTIONS[:3]
    raise LookupError("the table has gone")


async def _failing_later() -> AsyncIterator[str]:
    for question in QUESTIONS[:3]:
        yield question
    await asyncio.sleep(0.05)
    raise LookupError("the table has gone")


async def _cancelled_within() -> AsyncIterator[str]:
    yield QUESTIONS[0]
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("prompts", "kind"),
    [(_failing, LookupError), (_failing_later, LookupError), (_cancelled_within, asyncio.CancelledError)],
)
async def test_what_the_prompts_raise_reaches_the_caller(
    start_mock: StartMock, prompts: Callable[[], Any], kind: type[BaseException]
) -> None:
    """Behind the results of what was sent; nothing stays behind."""
    results: list[llmblast.Result] = []

    with pytest.raises(kind):  # noqa: PT012 -- the loop is what raises
        async for result in llmblast.stream(prompts(), endpoints=[start_mock().url], model="m"):
            results.append(result)

    assert results
    assert not own_tasks()


@pytest.mark.parametrize("prompt", [b"bytes", 3, None, {"input": {1, 2}}])
async def test_what_is_no_prompt_ends_the_run_with_its_place(start_mock: StartMock, prompt: Any) -> None:
    """A mistake in the program, not in the data."""
    with pytest.raises(llmblast.UsageError, match=r"^prompts\[1\]: "):
        await collect(["good", prompt], endpoints=[start_mock().url], model="m")


async def test_prompts_that_come_one_by_one_are_sent_as_they_come(start_mock: StartMock) -> None:
    """An answer may be what the next prompt waits for."""
    answers: asyncio.Queue[object] = asyncio.Queue()

    async def talk() -> AsyncIterator[str]:
        yield "start"
        for _ in range(3):
            yield str(await answers.get())

    count = 0
    async with asyncio.timeout(10):
        async for result in llmblast.stream(talk(), endpoints=[start_mock().url], model="m"):
            count += 1
            await answers.put(result.response)

    assert count == 4


async def test_a_run_goes_on_from_its_files(start_mock: StartMock, tmp_path: Path) -> None:
    """What was answered is not sent again, whether the prompts come from a file or from memory."""
    server, save = start_mock(), tmp_path / "save.jsonl"
    options: dict[str, Any] = {"endpoints": [server.url], "model": "m", "save": save}

    first = await llmblast.run_async(QUESTIONS[:20], **options)
    second = await llmblast.run_async((question for question in QUESTIONS[:30]), **options)

    assert (first.exit_code, first.answered, first.skipped) == (0, 20, 0)
    assert (second.exit_code, second.answered, second.skipped) == (0, 10, 20)
    assert second.ok
    assert second.results == ()
    assert server.received == len(records(save)) == 30
    assert [endpoint.sent for endpoint in second.endpoints] == [10]


async def test_a_cancelled_run_with_files_keeps_what_was_paid_for(start_mock: StartMock, tmp_path: Path) -> None:
    """What is in flight has the grace to end; the next run sends the rest."""
    server, save = start_mock("latency=0.2"), tmp_path / "save.jsonl"
    options: dict[str, Any] = {"endpoints": [server.url], "model": "m", "save": save, "concurrency": 10}
    task = asyncio.create_task(llmblast.run_async(QUESTIONS, **options))
    await until(lambda: server.received >= 10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(records(save)) == server.received
    assert not own_tasks()
    assert (await llmblast.run_async(QUESTIONS, **options)).ok
    assert server.received == len(QUESTIONS)


async def test_a_second_cancellation_does_not_wait(start_mock: StartMock, tmp_path: Path) -> None:
    """As a second Ctrl-C does not."""
    server = start_mock("latency=60")
    task = asyncio.create_task(
        llmblast.run_async(QUESTIONS, endpoints=[server.url], model="m", save=tmp_path / "save.jsonl")
    )
    await until(lambda: server.received > 0)

    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await task

    assert not own_tasks()


def test_run_returns_the_results_in_the_order_of_the_prompts(start_mock: StartMock) -> None:
    """And figures; it has a loop of its own."""
    server = start_mock("latency=0.01")

    summary = llmblast.run(QUESTIONS, endpoints=[server.url], model="m")

    assert [result.input for result in summary.results] == QUESTIONS
    assert (summary.exit_code, summary.read, summary.answered, summary.failed) == (0, 200, 200, 0)
    assert summary.prompt_tokens > 0
    assert summary.endpoints[0].latency_p50_s is not None


async def test_run_on_a_running_loop_says_what_to_write() -> None:
    """As in a notebook, where `await` works at the top."""
    with pytest.raises(llmblast.UsageError, match=r"await llmblast\.run_async"):
        llmblast.run(["x"], endpoints=["mock:"])


async def test_a_run_that_ends_before_its_time_says_so(start_mock: StartMock) -> None:
    """As an error of the iteration, behind its results; `run_async` has it in its summary."""
    refusing = start_mock(script=lambda index, body: ScriptedReply(401, b'{"error":{"message":"who is that?"}}'))
    slow = start_mock("latency=0.05")

    with pytest.raises(llmblast.RefusedError, match=r"who is that"):
        await collect(QUESTIONS, endpoints=[refusing.url], model="m")
    with pytest.raises(llmblast.StoppedError, match="max_time"):
        await collect(QUESTIONS * 20, endpoints=[slow.url], model="m", rps=20, max_time=0.3)
    summary = await llmblast.run_async(QUESTIONS * 20, endpoints=[slow.url], model="m", rps=20, max_time=0.3)
    assert summary.exit_code is llmblast.ExitCode.STOPPED


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rps": 0}, "rps: 0 is not allowed"),
        ({"rsp": 5}, "rsp: unknown setting rsp; did you mean rps?"),
        ({"max_time": "soon"}, "max_time: 'soon' is not a duration"),
        ({"save": "save.jsonl"}, "save: stream() writes no files"),
        ({"overwrite": True}, "overwrite: has no meaning without files"),
        ({"quiet": True}, "quiet: is for the command line only"),
        ({"input": "x.jsonl"}, "input: the prompts"),
        ({"endpoints": None}, 'no endpoint: name one, such as endpoints=["http'),
        ({"endpoints": [3]}, "endpoints[0]: int is not allowed"),
        ({"endpoints": ["mock:,rps=x"]}, "endpoints mock:,rps=x: 'x' is not a number"),
        ({"endpoints": [{"url": "mock:", "rps": -1}]}, "endpoints[0].rps: -1 is not allowed"),
        ({"hedge": "p95"}, "hedge p95: needs a second endpoint"),
        ({"processes": 2}, "processes 2: is not available"),
    ],
)
def test_wrong_settings_are_named_as_in_python(
    settings: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the call, before the first step of the iteration."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    with pytest.raises(llmblast.UsageError) as caught:
        llmblast.stream(["x"], **{"endpoints": ["mock:"], **settings})

    assert str(caught.value).startswith(text)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("prompts", [{"input": "x"}, b"x", 3])
def test_what_are_no_prompts_is_a_usage_error(prompts: Any) -> None:
    """One dict is likely meant as a list of one."""
    with pytest.raises(llmblast.UsageError, match=r"^prompts: "):
        llmblast.stream(prompts, endpoints=["mock:"])


async def test_messages_go_to_the_log_and_nowhere_else(
    start_mock: StartMock, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under the name of the library."""
    rejection = ScriptedReply(429, b"{}", {"retry-after": "0.1"})
    server = start_mock(script=lambda index, body: rejection if index < 3 else None)

    with caplog.at_level(logging.WARNING, "llmblast"):
        await collect(QUESTIONS[:10], endpoints=[server.url], model="m", verbose=True)

    assert any("paused" in record.getMessage() for record in caplog.records if record.name == "llmblast")
    assert capfd.readouterr() == ("", "")


async def test_no_state_of_the_process_is_changed(
    start_mock: StartMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither collector nor signals nor the loop's handler, and no file appears."""
    monkeypatch.chdir(tmp_path)
    loop = asyncio.get_running_loop()

    def state() -> Sequence[object]:
        signals = [
            signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        ]
        return [gc.get_threshold(), gc.get_freeze_count(), signals, loop.get_exception_handler(), os.listdir(tmp_path)]

    before = state()
    await collect(QUESTIONS[:10], endpoints=[start_mock().url], model="m")

    assert state() == before


@pytest.mark.pure
async def test_a_defect_is_an_error_with_its_details_in_the_log(
    start_mock: StartMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In place of the file that the command line writes."""

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmblast.job.response_handler.judge", fail)

    with pytest.raises(llmblast.DefectError, match="broken"):
        await collect(QUESTIONS, endpoints=[start_mock().url], model="m")

    assert any("Traceback" in record.getMessage() for record in caplog.records if record.name == "llmblast")
    assert os.listdir(tmp_path) == []
    assert not own_tasks()


def test_importing_loads_next_to_nothing() -> None:
    """A program that may never send anything should not wait for it."""
    script = "import sys; before = set(sys.modules); import llmblast; print(*set(sys.modules) - before)"

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not {"aiohttp", "pydantic", "orjson", "asyncio", "uvloop", "typing"} & set(done.stdout.split())


def test_the_example_of_the_readme_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """It is a file here, so that its types are checked, too."""
    example = Path(__file__).with_name("readme_example.py")
    settings = {**environment, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}

    done = subprocess.run(
        [sys.executable, "-X", "dev", example], cwd=tmp_path, env=settings, capture_output=True, text=True, check=True
    )

    assert f"```python\n{example.read_text()}```" in (ROOT / "README.md").read_text()
    assert sorted(int(line.split()[0]) for line in done.stdout.splitlines()) == list(range(100))
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


CTRL_C = """
import sys, llmblast
prompts = [f"Question {n}?" for n in range(1000)]
llmblast.run(prompts, endpoints=[sys.argv[1]], model="m", save="save.jsonl", concurrency=10)
"""


def test_ctrl_c_in_a_run_keeps_what_was_paid_for(
    environment: dict[str, str], start_mock: StartMock, tmp_path: Path
) -> None:
    """The program gets its KeyboardInterrupt once all is written."""
    server = start_mock("latency=0.3")
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, server.url],
        cwd=tmp_path,
        env={**unmeasured(environment), "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    asyncio.run(until(lambda: server.received >= 10))

    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=30)[1]

    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert len(records(tmp_path / "save.jsonl")) == server.received


async def test_a_generator_that_fails_while_it_is_closed_is_told_to_the_loop(start_mock: StartMock) -> None:
    """As asyncio does with its own; the run has ended in order."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    async def waiting() -> AsyncIterator[str]:
        yield "one"
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("closed badly")

    def plain() -> Iterator[str]:
        try:
            for number in range(10_000):
                yield str(number)
        finally:
            raise LookupError("closed badly")

    for prompts in (waiting, plain):
        async with aclosing(
            llmblast.stream(prompts(), endpoints=[start_mock().url], model="m", concurrency=2)
        ) as results:
            await anext(results)

    assert [str(context["exception"]) for context in told] == ["closed badly"] * 2
    assert not own_tasks()


def test_the_keywords_that_type_checkers_know_are_the_settings() -> None:
    """All but those that the program itself gives, and those of a terminal."""
    names = {entry.name for entry in fields(Settings)} - {"input", "deferred", "endpoints", "progress", "json", "quiet"}

    assert set(RunOptions.__annotations__) == names | {"config"}
    assert set(StreamOptions.__annotations__) == names - {"save", *OF_FILES} | {"config"}


def test_all_names_are_there() -> None:
    """Each can be loaded, and no other."""
    assert {name for name in llmblast.__all__ if getattr(llmblast, name) is None} == set()
    assert set(llmblast.__all__) <= set(dir(llmblast))
    with pytest.raises(AttributeError):
        _ = llmblast.no_such_name


def test_the_summary_of_a_run_by_batch_has_its_cost_and_what_it_saved(tmp_path: Path) -> None:
    """Half of the price of direct requests."""
    write_prompts(tmp_path / "prompts.jsonl", 5)

    summary = llmblast.run(
        str(tmp_path / "prompts.jsonl"),
        endpoints=["mock:?batch_delay=0.1,model=m"],
        save=str(tmp_path / "save.jsonl"),
        defer="batch",
        price_out=10.0,
    )

    assert (summary.answered, summary.batched, summary.sent) == (5, 5, 0)
    assert summary.cost == summary.saved == pytest.approx(summary.completion_tokens * 5e-6)
