"""`llmblast batches` at providers that refuse, or cannot be reached."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.job.batch_folders import folder_of
from llmblast.job.batch_journal import BatchEntry, BatchJournal, Step
from llmblast.job.batch_overview import BatchOverview
from llmblast.settings import Settings


@asynccontextmanager
async def provider(**answers: list[int]) -> AsyncIterator[tuple[str, list[str]]]:
    """Run a batch API that gives these statuses for each batch, the last one again and again; 200 is `completed`."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        batch = request.match_info["batch"]
        asked.append(f"{request.method} {batch}")
        statuses = answers[batch]
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        return web.json_response({"id": batch, "status": "completed", "error_file_id": "f"}, status=status)

    async def listing(_request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/batches", listing)
    app.router.add_route("*", "/v1/batches/{batch}{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr("llmblast.batching.http.pause_s", lambda _tries: 0.0)
    monkeypatch.setattr("llmblast.job.batch_overview.poll_interval_s", lambda _age_s: 0.0)


def journal_of(save: str, steps: Sequence[Step]) -> BatchJournal:
    """Write a journal with a batch at each of these steps, `b0` and so on."""
    journal = BatchJournal(folder_of(save))
    journal.create_folder()
    for index, step in enumerate(steps):
        entry = BatchEntry(f"lb{index}", "e", "chat/completions", "m", 1, 10)
        Path(journal.lines_path(entry)).write_bytes(b"{}\n")
        journal.add(entry)
        if step is Step.STARTED:
            journal.record(entry, step, batch_id=f"b{index}")
        elif step is not Step.PACKED:
            journal.record(entry, step)
    return journal


def overview(save: str, url: str) -> BatchOverview:
    return BatchOverview(Settings(endpoints=(EndpointSettings(url=url, name="e", model="m"),), save=save), {})


async def test_a_provider_that_is_down_for_a_while_is_asked_again(tmp_path: Path) -> None:
    """`wait` is for scripts: its end means that the batches have ended."""
    save = str(tmp_path / "save.jsonl")
    journal_of(save, [Step.STARTED])
    async with provider(b0=[*([503] * 12), 200]) as (url, asked):
        code = await overview(save, url).show(waits=True)

    assert code == ExitCode.OK
    assert len(asked) == 14


async def test_a_batch_that_cannot_be_cancelled_does_not_keep_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = str(tmp_path / "save.jsonl")
    journal_of(save, [Step.STARTED, Step.STARTED])
    async with provider(b0=[404], b1=[200]) as (url, asked):
        code = await overview(save, url).show(cancels=True)

    assert code == ExitCode.REFUSED
    assert "POST b1" in asked
    assert "cannot cancel batch b0: HTTP 404" in capsys.readouterr().err


async def test_a_batch_that_is_cancelled_before_its_start_is_not_started(tmp_path: Path) -> None:
    """It waits for room in the provider's queue, for example."""
    save = str(tmp_path / "save.jsonl")
    journal = journal_of(save, [Step.PACKED, Step.UPLOADED])
    async with provider() as (url, _asked):
        code = await overview(save, url).show(cancels=True)

    journal.load()
    assert code == ExitCode.OK
    assert [entry.step for entry in journal.entries.values()] == [Step.ENDED, Step.ENDED]


async def test_a_batch_that_may_have_been_started_is_not_cancelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = str(tmp_path / "save.jsonl")
    journal_of(save, [Step.STARTING])
    async with provider() as (url, _asked):
        code = await overview(save, url).show(cancels=True)

    assert code == ExitCode.REFUSED
    assert "lb0: it is not known whether it was started: run the command first" in capsys.readouterr().err
