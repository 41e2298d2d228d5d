"""Gemini's batches: Google's official client uploads, starts, watches, lists, cancels, collects and deletes."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from google import genai
from google.genai import errors, types

from llmblast.mocking.server import MockServer
from tests.conftest import StartMock

MODEL = "gemini-2.5-flash"
WAIT_S = 20.0
Start = Callable[[str], tuple[MockServer, genai.Client]]


@pytest.fixture
def start(start_mock: StartMock) -> Iterator[Start]:
    """Starts a mock with these settings and a client of it."""
    with ExitStack() as stack:

        def start(query: str) -> tuple[MockServer, genai.Client]:
            server = start_mock(f"latency=0&key=k&{query}")
            options = types.HttpOptions(base_url=server.url.removesuffix("/v1"))
            return server, stack.enter_context(genai.Client(api_key="k", http_options=options))

        yield start


def text_of(number: int) -> str:
    return f"Question {number} about ships?"


def line(number: int, **more: Any) -> dict[str, Any]:
    request = {"contents": [{"parts": [{"text": text_of(number)}], "role": "user"}], **more}
    return {"key": f"a-{number}", "request": request}


def upload(client: genai.Client, lines: list[Any]) -> types.File:
    data = b"".join(one if isinstance(one, bytes) else orjson.dumps(one) + b"\n" for one in lines)
    config = types.UploadFileConfig(display_name="lines", mime_type="jsonl")
    return client.files.upload(file=io.BytesIO(data), config=config)


def submit(client: genai.Client, lines: list[Any], name: str = "marked") -> types.BatchJob:
    file = upload(client, lines)
    assert file.name is not None
    config = types.CreateBatchJobConfig(display_name=name)
    return client.batches.create(model=MODEL, src=file.name, config=config)


def wait(client: genai.Client, job: types.BatchJob) -> types.BatchJob:
    deadline_s = time.monotonic() + WAIT_S
    assert job.name is not None
    while not (job := client.batches.get(name=job.name or "")).done:
        assert time.monotonic() < deadline_s, job
    return job


def results(client: genai.Client, job: types.BatchJob) -> dict[str, Any]:
    assert job.dest is not None
    assert job.dest.file_name is not None
    lines = client.files.download(file=job.dest.file_name).splitlines()
    return {result.pop("key"): result for result in map(orjson.loads, lines)}


def direct(client: genai.Client, number: int) -> str | None:
    return client.models.generate_content(model=MODEL, contents=text_of(number)).text


def test_a_file_of_requests_has_the_answers_of_direct_requests(start: Start) -> None:
    """By their keys, in another order."""
    _, client = start("batch_delay=0.1")

    job = submit(client, [line(number) for number in range(20)])
    ended = wait(client, job)
    found = results(client, ended)

    assert (job.state, ended.state) == (types.JobState.JOB_STATE_PENDING, types.JobState.JOB_STATE_SUCCEEDED)
    assert (ended.display_name, ended.model) == ("marked", f"models/{MODEL}")
    assert list(found) != [f"a-{number}" for number in range(20)]
    for number in range(20):
        response = types.GenerateContentResponse.model_validate(found[f"a-{number}"]["response"])
        assert response.text == direct(client, number)


def test_requests_in_the_body_have_their_answers_in_order(start: Start) -> None:
    """With the metadata that they came with; one that is wrong has an error."""
    _, client = start("batch_delay=0")
    requests = [types.InlinedRequest(contents=text_of(number), metadata={"key": f"a-{number}"}) for number in range(10)]
    requests.append(types.InlinedRequest(contents="x", config=types.GenerateContentConfig(temperature=7)))

    job = wait(client, client.batches.create(model=MODEL, src=requests))

    assert job.dest is not None
    responses = job.dest.inlined_responses or []
    assert [one.response.text for one in responses[:10] if one.response] == [direct(client, n) for n in range(10)]
    assert [one.metadata for one in responses] == [{"key": f"a-{number}"} for number in range(10)] + [None]
    assert responses[10].error is not None
    assert responses[10].error.code == 3


def test_requests_that_fail_have_an_error_beside_the_others(start: Start) -> None:
    """As a status with a code."""
    _, client = start("batch_delay=0&batch_fail=0.5")

    found = results(client, wait(client, submit(client, [line(number) for number in range(20)])))

    codes = [one["error"]["code"] for one in found.values() if "error" in one]
    assert set(codes) == {13}
    assert 0 < len(codes) < 20


def test_a_batch_expires(start: Start) -> None:
    """What it has finished is in the file all the same."""
    server, client = start("batch_delay=0&batch_expire=0.3")

    job = wait(client, submit(client, [line(number) for number in range(10)]))

    found = results(client, job)
    assert job.state is types.JobState.JOB_STATE_EXPIRED
    assert [one["error"]["code"] for one in found.values() if "error" in one] == [4, 4, 4]
    assert {event["custom_id"] for event in server.batch_ledger if event.get("billed")} == {
        key for key, one in found.items() if "response" in one
    }


def test_a_batch_is_cancelled_and_deleted(start: Start) -> None:
    """Nothing was billed."""
    server, client = start("batch_delay=1000")
    job = submit(client, [line(number) for number in range(10)])
    assert job.name is not None

    client.batches.cancel(name=job.name)
    ended = wait(client, job)
    client.batches.delete(name=job.name)

    assert ended.state is types.JobState.JOB_STATE_CANCELLED
    assert [event for event in server.batch_ledger if event.get("billed")] == []
    with pytest.raises(errors.ClientError) as caught:
        client.batches.get(name=job.name)
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


@pytest.mark.parametrize(("query", "lines"), [("batch_reject=1", [line(0)]), ("", [line(0), b"{not json\n"]), ("", [])])
def test_a_file_that_is_not_valid_makes_the_batch_fail(start: Start, query: str, lines: list[Any]) -> None:
    """With a reason; no request of it is answered."""
    server, client = start(f"batch_delay=0&{query}")

    job = submit(client, lines)
    ended = wait(client, job)

    assert ended.state is types.JobState.JOB_STATE_FAILED
    operation = orjson.loads(client._api_client.request("get", job.name or "", {}).body or "")
    assert operation["error"]["message"]
    assert [event for event in server.batch_ledger if event["event"] == "batch_line"] == []


def test_batches_and_files_are_listed_by_pages(start: Start) -> None:
    """Newest first; files can be deleted."""
    _, client = start("batch_delay=0")
    names = [submit(client, [line(0)], name=f"job-{number}").name for number in range(5)][::-1]

    listed = client.batches.list(config=types.ListBatchJobsConfig(page_size=2))
    files = [file.name for file in client.files.list(config=types.ListFilesConfig(page_size=2))]

    assert [job.name for job in listed] == names
    assert len(set(files)) >= 5
    client.files.delete(name=files[0] or "")
    with pytest.raises(errors.ClientError):
        client.files.get(name=files[0] or "")


def test_a_full_queue_and_a_wrong_key_are_told_at_once(start: Start) -> None:
    """In the form of the API."""
    server, client = start("batch_delay=1000&batch_queue=5")
    with pytest.raises(errors.ClientError) as caught:
        submit(client, [line(number) for number in range(6)])
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")

    options = types.HttpOptions(base_url=server.url.removesuffix("/v1"))
    with genai.Client(api_key="wrong", http_options=options) as other, pytest.raises(errors.ClientError):
        list(other.batches.list())


def test_a_file_goes_up_in_chunks(start: Start) -> None:
    """As large as it is, and is not to be downloaded."""
    _, client = start("batch_delay=0")

    file = upload(client, [b"x" * 1023 + b"\n"] * (20 * 1024))

    assert (file.size_bytes, file.display_name, file.state) == (20 * 1024 * 1024, "lines", types.FileState.ACTIVE)
    with pytest.raises(errors.ClientError):
        client.files.download(file=file.name or "")
