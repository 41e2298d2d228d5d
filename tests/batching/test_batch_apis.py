"""Each API's client against the mock provider's batches: the whole way of a batch, and how it may end."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from llmblast.batching.api import (
    BatchApi,
    BatchApiError,
    BatchEnd,
    BatchFile,
    BatchGone,
    BatchState,
    BatchStatus,
    Found,
    Maybe,
    MaybeStarted,
    NotFound,
    NotHere,
    NotNow,
    Rejected,
    Unfinished,
    Unreachable,
)
from llmblast.batching.listing import look_for
from llmblast.models import Answer, Reply
from llmblast.providers import PROVIDERS
from tests.batch_apis import Api, collect, no_pause, relay, start, wait
from tests.batching.conftest import OpenApi

StartHost = Callable[..., str]
LINES = 30


async def test_a_batch_returns_the_replies_of_direct_requests(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """Each under its custom id, in the form that the provider reads."""
    batches = client(mock())

    _, begun = await start(batches, api.write(tmp_path, LINES))
    ended = await wait(batches, begun)
    results = await collect(batches, ended)

    assert (ended.state, ended.end) == (BatchState.ENDED, BatchEnd.COMPLETED)
    assert (ended.counts.total, ended.counts.succeeded, ended.counts.failed) == (LINES, LINES, 0)
    assert set(results) == {f"m1-{number}" for number in range(LINES)}
    replies = [result.reply for result in results.values()]
    assert all(isinstance(reply, Reply) and reply.status == 200 for reply in replies)
    assert all(isinstance(api.answer_in(reply), Answer) for reply in replies if isinstance(reply, Reply))


async def test_an_ended_batch_is_found_by_its_mark(api: Api, mock: StartHost, client: OpenApi, tmp_path: Path) -> None:
    """And no other one, though that has as many lines."""
    batches, since_s = client(mock()), time()
    batch, begun = await start(batches, api.write(tmp_path, LINES))
    _, other = await start(batches, api.write(tmp_path, LINES, "m2"))
    await wait(batches, begun)
    await wait(batches, other)

    found = await batches.find(replace(batch, upload_id=None), since_s)
    by_a_wrong_clock = await batches.find(batch, since_s + (300 if api.name == "anthropic" else 90_000))
    missing = await batches.find(BatchFile(batch.file, "m3", LINES, batch.path, batch.model), since_s)

    assert isinstance(found, Found)
    assert (found.status.id, found.status.mark) == (begun.id, "m1")
    assert by_a_wrong_clock == found
    assert isinstance(missing, NotFound)


async def test_a_running_batch_is_found_or_may_be_the_one(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """Where the API shows no mark before the end, the caller must wait; known batches are left out."""
    batches, since_s = client(mock("batch_delay=10")), time()
    batch, begun = await start(batches, api.write(tmp_path, LINES))
    await wait(batches, begun, lambda status: status.counts.total == LINES or status.counts.total is None)

    finding = await batches.find(batch, since_s)
    others = await batches.find(BatchFile(batch.file, "m3", LINES, batch.path, batch.model), since_s, (begun.id,))

    if api.name == "anthropic":
        assert finding == Maybe((begun.id,))
    else:
        assert isinstance(finding, Found)
        assert finding.status.id == begun.id
    assert isinstance(others, NotFound)


async def test_a_batch_that_failed_is_not_the_one_after_it(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """Both have the mark and the file: the caller knows the first one."""
    batches, since_s = client(mock("batch_delay=0.05")), time()
    batch, first = await start(batches, api.write(tmp_path, LINES))
    second = await batches.start(batch)
    await wait(batches, first)
    await wait(batches, second)

    finding = await batches.find(batch, since_s, (second.id,))
    nothing = await batches.find(batch, since_s, (first.id, second.id))

    assert isinstance(finding, Found)
    assert finding.status.id == first.id
    assert isinstance(nothing, NotFound)


async def test_a_batch_that_is_not_in_the_listing_yet_is_looked_for_again(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """A listing that lags must not make a second batch."""
    batches, since_s = client(mock("batch_delay=0.05&batch_lag=0.6")), time()
    batch, begun = await start(batches, api.write(tmp_path, LINES))
    await wait(batches, begun)
    at_once = await batches.find(batch, since_s)

    finding = await look_for(batches, batch, since_s, time(), lag_s=20, sleep=no_pause)

    assert isinstance(at_once, NotFound)
    assert isinstance(finding, Found)
    assert finding.status.id == begun.id


async def test_a_cancelled_batch_returns_what_it_finished(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """The rest may be sent again; to cancel it once more does nothing."""
    batches = client(mock("batch_delay=4"))
    _, begun = await start(batches, api.write(tmp_path, LINES))
    counted_s = time() + 2  # Anthropic counts at the end only
    await wait(batches, begun, lambda status: (status.counts.succeeded or 0) > 2 or time() > counted_s)

    await batches.cancel(begun.id)
    ended = await wait(batches, begun)
    await batches.cancel(begun.id)
    results = await collect(batches, ended)

    assert ended.end is BatchEnd.CANCELLED
    answered = [result for result in results.values() if isinstance(result.reply, Reply)]
    assert all(isinstance(result.reply, Reply | Unfinished) for result in results.values())
    assert 2 < len(answered) < LINES


async def test_an_expired_batch_returns_what_it_finished(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """Lines without a result, or with one that says so, are unfinished."""
    batches = client(mock("batch_delay=0.2&batch_expire=0.3"))

    _, begun = await start(batches, api.write(tmp_path, LINES))
    ended = await wait(batches, begun)
    results = await collect(batches, ended)

    assert ended.end is BatchEnd.EXPIRED
    answered = [result for result in results.values() if isinstance(result.reply, Reply)]
    assert len(answered) in (0, LINES * 7 // 10)
    assert {result.custom_id for result in results.values()} <= {f"m1-{number}" for number in range(LINES)}


async def test_a_line_that_failed_has_the_status_of_a_direct_request(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """And a body that the provider's error reader understands."""
    batches = client(mock("batch_delay=0.2&batch_fail=1"))

    _, begun = await start(batches, api.write(tmp_path, 3))
    results = await collect(batches, await wait(batches, begun))

    assert len(results) == 3
    for result in results.values():
        assert isinstance(result.reply, Reply)
        assert result.reply.status == 500
        assert PROVIDERS[api.kind].read_error(result.reply).message


async def test_a_rejected_file_fails_with_its_reason(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """Nothing of it was done; the lines may go another way."""
    batches = client(mock("batch_delay=0.2&batch_reject=1"))

    ended = await end_of(batches, api.write(tmp_path, 3))

    if isinstance(ended, BatchStatus):
        assert (ended.end, ended.is_not_now) == (BatchEnd.FAILED, False)
        assert ended.message
        assert await collect(batches, ended) == {}
    else:
        assert isinstance(ended, Rejected)
        assert "reject" in str(ended)


async def test_a_full_queue_means_not_now(api: Api, mock: StartHost, client: OpenApi, tmp_path: Path) -> None:
    """By a refusal of the start, or by a batch that fails."""
    ended = await end_of(client(mock("batch_delay=0.2&batch_queue=2")), api.write(tmp_path, 3))

    if isinstance(ended, BatchStatus):
        assert (ended.end, ended.is_not_now) == (BatchEnd.FAILED, True)
    else:
        assert isinstance(ended, NotNow)


async def end_of(batches: BatchApi, batch: BatchFile) -> BatchStatus | BatchApiError:
    """Return how a batch ended, or why it was not started."""
    try:
        _, begun = await start(batches, batch)
    except BatchApiError as error:
        return error
    return await wait(batches, begun)


async def test_a_start_without_an_answer_may_have_started(
    api: Api, mock: StartHost, client: OpenApi, tmp_path: Path
) -> None:
    """The batch is there once, and the search finds it."""
    host, since_s = mock("batch_delay=0.2"), time()
    starts: list[bytes] = []

    def is_start(head: bytes) -> bool:
        line = head.partition(b"\r\n")[0]
        is_it = line.startswith(b"POST ") and any(
            part in line for part in (b"/batches ", b":batchGenerateContent", b"/batch/jobs ")
        )
        if is_it:
            starts.append(line)
        return is_it

    async with relay(host, is_start) as relayed:
        batches = client(relayed)
        batch = api.write(tmp_path, LINES)
        batch = replace(batch, upload_id=await batches.upload(batch))
        with pytest.raises(MaybeStarted):
            await batches.start(batch)
        finding = await look_for(batches, batch, since_s, time(), lag_s=20, sleep=no_pause)
        if isinstance(finding, Maybe):
            await wait(batches, await batches.status(finding.batch_ids[0]))
            finding = await batches.find(batch, since_s)

    assert isinstance(finding, Found)
    assert len(starts) == 1
    assert len([status async for status in client(host).list(since_s - 600)]) == 1


async def test_a_start_that_never_left_has_not_started(api: Api, client: OpenApi, tmp_path: Path) -> None:
    """No search is needed."""
    batch = replace(api.write(tmp_path, 1), upload_id="f")

    with pytest.raises(Unreachable, match="endpoint e: cannot start a batch"):
        await client("http://127.0.0.1:9").start(batch)


async def test_a_batch_that_the_provider_does_not_know_is_gone(api: Api, mock: StartHost, client: OpenApi) -> None:
    """It was deleted, or is too old."""
    batches = client(mock())

    with pytest.raises(BatchGone):
        await batches.status("batches/none" if api.name == "gemini" else "none")


async def test_a_server_without_batches_is_not_here(api: Api, mock: StartHost, client: OpenApi, tmp_path: Path) -> None:
    """The lines have to go directly."""
    batches = client(f"{mock()}/elsewhere")
    batch = replace(api.write(tmp_path, 1), upload_id="f")

    with pytest.raises(NotHere):
        await batches.start(batch)
    with pytest.raises(NotHere):
        [status async for status in batches.list(0.0)]


async def test_an_upload_can_be_deleted_twice(api: Api, mock: StartHost, client: OpenApi, tmp_path: Path) -> None:
    """Whatever the provider says to it."""
    batches = client(mock())
    upload_id = await batches.upload(api.write(tmp_path, 1))

    await batches.delete_upload(upload_id or "none")
    await batches.delete_upload(upload_id or "none")


async def test_a_listing_is_read_page_by_page(api: Api, mock: StartHost, client: OpenApi, tmp_path: Path) -> None:
    """All batches are in it, each once."""
    batches = client(mock("batch_delay=10"))
    batch = api.write(tmp_path, 1)
    batch = replace(batch, upload_id=await batches.upload(batch))
    limit = asyncio.Semaphore(8)

    async def start_one() -> str:
        async with limit:
            return (await batches.start(batch)).id

    begun = await asyncio.gather(*(start_one() for _ in range(230)))
    listed = [status.id async for status in batches.list(time() - 600)]

    assert sorted(listed) == sorted(begun)


def test_errors_of_batch_apis_have_one_base() -> None:
    """The caller can catch all of them."""
    errors = (BatchGone, MaybeStarted, NotHere, NotNow, Rejected, Unreachable)

    assert all(issubclass(error, BatchApiError) for error in errors)
