"""Mistral's batch jobs, by plain HTTP: its official client is no dependency of the tests."""

import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings

ENDED = ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")
WAIT_S = 20.0


def line(number: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Question {number} about ships?"}]
    return {"custom_id": f"a-{number}", "body": {"max_tokens": 100, "messages": messages, **more}}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Client:
    def __init__(self, session: aiohttp.ClientSession, server: MockServer) -> None:
        self._session = session
        self._url = server.url

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        async with self._session.request(method, f"{self._url}{path}", **more) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def upload(self, lines: list[Any]) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        data = b"".join(orjson.dumps(one) + b"\n" for one in lines)
        form.add_field("file", data, filename="lines.jsonl")
        file = await self.ask("POST", "/files", data=form)
        return str(file["id"])

    async def create(self, **more: Any) -> Any:
        return await self.ask("POST", "/batch/jobs", json={"endpoint": "/v1/chat/completions", "model": "m", **more})

    async def wait(self, job: Any) -> Any:
        deadline_s = time.monotonic() + WAIT_S
        while (job := await self.ask("GET", f"/batch/jobs/{job['id']}"))["status"] not in ENDED:
            assert time.monotonic() < deadline_s, job
        return job

    async def content(self, identity: str) -> dict[str, Any]:
        async with self._session.get(f"{self._url}/files/{identity}/content") as response:
            return {one["custom_id"]: one for one in map(orjson.loads, (await response.read()).splitlines())}


async def test_a_job_has_the_answers_of_direct_requests(session: aiohttp.ClientSession) -> None:
    """Its model is that of the requests; files may be several; a request that is wrong is in the other file."""
    async with MockServer(MockSettings(latency=0, batch_delay=0)) as server:
        client = Client(session, server)
        files = [await client.upload([line(0), line(1)]), await client.upload([line(2, temperature=9)])]

        job = await client.create(input_files=files, metadata={"mark": "a"})
        ended = await client.wait(job)

        found, wrong = await client.content(ended["output_file"]), await client.content(ended["error_file"])
        direct = await client.ask("POST", "/chat/completions", json={"model": "m", **line(1)["body"]})

    counts = {name: ended[f"{name}_requests"] for name in ("total", "completed", "succeeded", "failed")}
    assert (job["status"], ended["status"], ended["metadata"]) == ("QUEUED", "SUCCESS", {"mark": "a"})
    assert counts == {"total": 3, "completed": 3, "succeeded": 2, "failed": 1}
    assert {name: one["response"]["status_code"] for name, one in found.items()} == {"a-0": 200, "a-1": 200}
    assert found["a-1"]["response"]["body"]["choices"] == direct["choices"]
    assert found["a-1"]["response"]["body"]["model"] == "m"
    assert (wrong["a-2"]["response"]["status_code"], wrong["a-2"]["error"]["param"]) == (400, "temperature")


async def test_a_job_whose_time_is_over_keeps_what_it_has(session: aiohttp.ClientSession) -> None:
    """Requests without an answer are in no file; those of the body need no file."""
    async with MockServer(MockSettings(latency=0, batch_delay=0, batch_expire=0.3), keep_ledger=True) as server:
        client = Client(session, server)

        ended = await client.wait(await client.create(requests=[line(number) for number in range(10)]))

        found = await client.content(ended["output_file"])

    assert (ended["status"], ended["error_file"], len(found)) == ("TIMEOUT_EXCEEDED", None, 7)
    assert {event["custom_id"] for event in server.batch_ledger if event.get("billed")} == set(found)


async def test_a_job_is_cancelled(session: aiohttp.ClientSession) -> None:
    """Not at once."""
    async with MockServer(MockSettings(latency=0, batch_delay=1000)) as server:
        client = Client(session, server)
        job = await client.create(requests=[line(0)])

        told = await client.ask("POST", f"/batch/jobs/{job['id']}/cancel")
        ended = await client.wait(job)

    assert (told["status"], ended["status"], ended["output_file"]) == ("CANCELLATION_REQUESTED", "CANCELLED", None)


async def test_a_job_fails_at_validation(session: aiohttp.ClientSession) -> None:
    """It says why."""
    async with MockServer(MockSettings(latency=0, batch_delay=0)) as server:
        client = Client(session, server)

        ended = await client.wait(await client.create(requests=[line(0), line(0)]))

    assert ended["status"] == "FAILED"
    assert "not unique" in ended["errors"][0]["message"]


async def test_jobs_are_listed_by_pages(session: aiohttp.ClientSession) -> None:
    """Newest first, filtered by their metadata."""
    async with MockServer(MockSettings(latency=0, batch_delay=0)) as server:
        client = Client(session, server)
        jobs = [await client.create(requests=[line(0)], metadata={"mark": f"{number}"}) for number in range(3)]

        first = await client.ask("GET", "/batch/jobs?page_size=2")
        second = await client.ask("GET", "/batch/jobs?page_size=2&page=1")
        marked = await client.ask("GET", '/batch/jobs?metadata={"mark":"1"}')

    ids = [job["id"] for job in jobs][::-1]
    assert [job["id"] for job in first["data"] + second["data"]] == ids
    assert (first["total"], [job["id"] for job in marked["data"]]) == (3, [ids[1]])


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 400),
        ({"input_files": ["none"]}, 404),
        ({"requests": [line(0)], "endpoint": "/v1/none"}, 400),
        ({"requests": [line(0)], "timeout_hours": 1000}, 422),
        ({"requests": [line(number) for number in range(6)]}, 429),
    ],
)
async def test_what_the_start_checks(session: aiohttp.ClientSession, more: dict[str, Any], status: int) -> None:
    """A wrong job is not started."""
    async with MockServer(MockSettings(latency=0, batch_queue=5), keep_ledger=True) as server:
        body = {"endpoint": "/v1/chat/completions", "model": "m", **more}
        async with session.post(f"{server.url}/batch/jobs", json=body) as response:
            assert response.status == status

    assert server.batch_ledger == []


@pytest.mark.parametrize(
    ("query", "status"), [("page=x", 400), ("page_size=0", 400), ("metadata={", 422), ("metadata=7", 422)]
)
async def test_a_wrong_filter_is_told(session: aiohttp.ClientSession, query: str, status: int) -> None:
    """By its name."""
    async with (
        MockServer(MockSettings(latency=0)) as server,
        session.get(f"{server.url}/batch/jobs?{query}") as response,
    ):
        told = await response.json()

    assert (response.status, told["error"]["param"]) == (status, query.partition("=")[0])
