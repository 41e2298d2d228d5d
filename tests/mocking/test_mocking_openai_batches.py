"""Batches of OpenAI and Azure: their official client uploads, starts, watches, lists, cancels and collects."""

import io
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
import orjson
import pytest
from openai.types import Batch

from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from tests.conftest import StartMock

ENDED = ("completed", "failed", "expired", "cancelled")
WAIT_S = 20.0
Start = Callable[[str], tuple[MockServer, openai.OpenAI]]


def chat_line(number: int, **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"Question {number} about ships?"}]}
    return {"custom_id": f"a-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **more}


def chat_lines(count: int) -> list[dict[str, Any]]:
    return [chat_line(number) for number in range(count)]


def connect(server: MockServer) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=server.url, max_retries=0)


@pytest.fixture
def start(start_mock: StartMock) -> Iterator[Start]:
    """Starts a mock with these settings and a client of it."""
    with ExitStack() as stack:

        def start(query: str) -> tuple[MockServer, openai.OpenAI]:
            server = start_mock(f"latency=0&{query}")
            return server, stack.enter_context(connect(server))

        yield start


def submit(client: openai.OpenAI, lines: list[Any], **more: Any) -> Batch:
    data = b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines)
    file = client.files.create(file=("lines.jsonl", io.BytesIO(data)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=more.pop("endpoint", "/v1/chat/completions"), completion_window="24h", **more
    )


def wait(
    client: openai.OpenAI, batch: Batch, until: Callable[[Batch], bool] = lambda one: one.status in ENDED
) -> Batch:
    deadline_s = time.monotonic() + WAIT_S
    while not until(batch := client.batches.retrieve(batch.id)):
        assert time.monotonic() < deadline_s, batch
    return batch


def content(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [orjson.loads(line) for line in client.files.content(file_id).read().splitlines()]


def test_a_batch_has_the_answers_of_direct_requests(start: Start) -> None:
    """In another order, each under its custom id; the batch repeats its metadata and sums the usage."""
    _, client = start("batch_delay=0.1")
    lines = chat_lines(50)

    batch = wait(client, submit(client, lines, metadata={"mark": "a"}))

    results = {line["custom_id"]: line for line in content(client, batch.output_file_id)}
    assert (batch.status, batch.error_file_id, batch.metadata) == ("completed", None, {"mark": "a"})
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (50, 50, 0)
    assert list(results) != [line["custom_id"] for line in lines]
    for line in lines:
        direct = client.chat.completions.create(**line["body"]).to_dict()
        response = results[line["custom_id"]]["response"]
        assert response["status_code"] == 200
        assert {**response["body"], "id": 0, "created": 0} == {**direct, "id": 0, "created": 0}
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(
        line["response"]["body"]["usage"]["completion_tokens"] for line in results.values()
    )


def test_the_lines_of_a_batch_use_the_prompt_cache(start: Start) -> None:
    """Each has what the lines before it have brought, and so has a direct request after them."""
    _, client = start("batch_delay=0&cache=1")
    system = {"role": "system", "content": "The ships are in the fog. " * 400}
    lines = chat_lines(5)
    for line in lines:
        line["body"]["messages"].insert(0, system)

    batch = wait(client, submit(client, lines))
    direct = client.chat.completions.create(**lines[0]["body"])

    found = [line["response"]["body"]["usage"] for line in content(client, batch.output_file_id)]
    assert sorted(usage["prompt_tokens_details"]["cached_tokens"] > 2000 for usage in found) == [False] + [True] * 4
    assert direct.usage is not None
    assert direct.usage.prompt_tokens_details is not None
    assert (direct.usage.prompt_tokens_details.cached_tokens or 0) > 2000


def test_lines_that_fail_have_a_file_of_their_own(start: Start) -> None:
    """With the error that the request would have had alone; the batch completes."""
    _, client = start("batch_delay=0")
    wrong = chat_line(3)
    wrong["body"]["temperature"] = 9

    batch = wait(client, submit(client, [*chat_lines(3), wrong]))

    (error,) = content(client, batch.error_file_id)
    assert (batch.status, len(content(client, batch.output_file_id))) == ("completed", 3)
    assert (error["custom_id"], error["response"]["status_code"], error["error"]) == ("a-3", 400, None)
    assert error["response"]["body"]["error"]["param"] == "temperature"


def test_a_share_of_the_lines_fails(start: Start) -> None:
    """They get a 500 and are not billed."""
    server, client = start("batch_delay=0&batch_fail=0.5")

    batch = wait(client, submit(client, chat_lines(40)))

    failed = {line["custom_id"] for line in content(client, batch.error_file_id)}
    billed = {event["custom_id"] for event in server.batch_ledger if event.get("billed")}
    assert batch.request_counts is not None
    assert 5 < batch.request_counts.failed == len(failed) < 35
    assert failed | billed == {f"a-{number}" for number in range(40)}
    assert not failed & billed


def test_an_expired_batch_keeps_what_it_has(start: Start) -> None:
    """The others are in the file of errors, with a code, and are not billed."""
    server, client = start("batch_delay=0&batch_expire=0.3")

    batch = wait(client, submit(client, chat_lines(10)))

    done = {line["custom_id"] for line in content(client, batch.output_file_id)}
    left = content(client, batch.error_file_id)
    assert (batch.status, batch.expired_at is None, len(done)) == ("expired", False, 7)
    assert [(line["response"], line["error"]["code"]) for line in left] == [(None, "batch_expired")] * 3
    assert {event["custom_id"] for event in server.batch_ledger if event.get("billed")} == done
    assert server.batch_ledger[-1]["event"] == "batch_ended"


def test_a_batch_is_cancelled_in_the_middle(start: Start) -> None:
    """What was answered until then stays, and counts grow until then."""
    server, client = start("batch_delay=2")
    batch = submit(client, chat_lines(2000))
    half_way = wait(client, batch, lambda one: one.request_counts is not None and one.request_counts.completed > 100)

    cancelling = client.batches.cancel(batch.id)
    ended = wait(client, batch)

    done = {line["custom_id"] for line in content(client, ended.output_file_id)}
    left = content(client, ended.error_file_id)
    assert (half_way.status, cancelling.status, ended.status) == ("in_progress", "cancelling", "cancelled")
    assert {line["error"]["code"] for line in left} == {"batch_cancelled"}
    assert 100 < len(done) < 2000
    assert len(done) + len(left) == 2000
    assert {event["custom_id"] for event in server.batch_ledger if event.get("billed")} == done
    with pytest.raises(openai.ConflictError, match="cancelled"):
        client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("query", "lines", "code", "line"),
    [
        ("", [b"{not json\n"], "invalid_json_line", 1),
        ("", [b"[1]\n"], "invalid_json_line", 1),
        ("", [chat_line(0), chat_line(0)], "duplicate_custom_id", 2),
        ("", [chat_line(0), chat_line(1, url="/v1/embeddings")], "url_mismatch", 2),
        ("", [chat_line(0), chat_line(1, body={"model": "other"})], "model_mismatch", 2),
        ("", [chat_line(0, method="GET")], "invalid_method", 1),
        ("", [chat_line(0, custom_id=None)], "missing_required_parameter", 1),
        ("", [chat_line(0, custom_id=7)], "invalid_type", 1),
        ("", [chat_line(0, body="text")], "invalid_type", 1),
        ("", [], "empty_file", None),
        ("batch_queue=3", chat_lines(4), "token_limit_exceeded", None),
        ("batch_reject=1", chat_lines(1), "invalid_request", None),
    ],
)
def test_what_validation_finds_makes_the_batch_fail(
    start: Start, query: str, lines: list[Any], code: str, line: int | None
) -> None:
    """It names the line, and nothing of the file is answered."""
    server, client = start(f"batch_delay=0&{query}")

    batch = wait(client, submit(client, lines))

    assert batch.errors is not None
    (error,) = list(batch.errors.data or [])
    assert (batch.status, batch.output_file_id, error.code, error.line) == ("failed", None, code, line)
    assert [event["event"] for event in server.batch_ledger] == ["batch_started", "batch_ended"]


def test_a_file_has_a_limit_of_lines(start: Start) -> None:
    """That of OpenAI."""
    _, client = start("batch_delay=0")
    batch = wait(client, submit(client, chat_lines(50_001)))

    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or ()] == ["too_many_tasks"]


def test_the_queue_has_room_again_when_a_batch_has_ended(start: Start) -> None:
    """Only lines that wait count, not those of a batch that was too large."""
    _, client = start("batch_delay=0&batch_queue=5")

    statuses = [wait(client, submit(client, chat_lines(count))).status for count in (4, 6, 4, 5)]

    assert statuses == ["completed", "failed", "completed", "completed"]


def test_batches_are_listed_newest_first(start: Start) -> None:
    """By pages."""
    _, client = start("batch_delay=0")
    ids = [submit(client, chat_lines(1)).id for _ in range(5)][::-1]

    assert [batch.id for batch in client.batches.list(limit=2)] == ids
    assert [batch.id for batch in client.batches.list(after=ids[2])] == ids[3:]


def test_a_new_batch_may_be_missing_in_the_list(start: Start) -> None:
    """It is there all the same."""
    _, client = start("batch_lag=1000")
    batch = submit(client, chat_lines(1))

    assert client.batches.list().data == []
    assert client.batches.retrieve(batch.id).id == batch.id


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"input_file_id": "file-none"}, 404),
        ({"endpoint": "/v1/none"}, 400),
        ({"completion_window": "1h"}, 400),
        ({"metadata": {"name": 7}}, 400),
        ({"input_file_id": None}, 400),
    ],
)
def test_what_the_start_checks(start: Start, more: dict[str, Any], status: int) -> None:
    """A wrong batch is not started."""
    server, client = start("batch_delay=0")
    file = client.files.create(file=("lines.jsonl", b"{}"), purpose="batch")
    asked: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}

    with pytest.raises(openai.APIStatusError) as caught:
        client.batches.create(**asked)

    assert caught.value.status_code == status
    assert server.batch_ledger == []


def test_files_are_listed_described_and_deleted(start: Start) -> None:
    """A batch whose file is deleted goes on."""
    _, client = start("batch_delay=0.2")
    batch = submit(client, chat_lines(3))

    described = client.files.retrieve(batch.input_file_id)
    deleted = client.files.delete(batch.input_file_id)

    assert (described.filename, described.purpose, described.status) == ("lines.jsonl", "batch", "processed")
    assert (deleted.deleted, client.files.list().data) == (True, [])
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.input_file_id)
    assert wait(client, batch).status == "completed"
    assert [file.purpose for file in client.files.list(purpose="batch_output")] == ["batch_output"]


def test_other_endpoints_have_batches(start: Start) -> None:
    """Embeddings, say."""
    _, client = start("batch_delay=0")
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "ships"}}

    batch = wait(client, submit(client, [line], endpoint="/v1/embeddings"))

    (result,) = content(client, batch.output_file_id)
    assert len(result["response"]["body"]["data"][0]["embedding"]) == 8


def test_lines_without_a_model_have_the_default_one(start: Start) -> None:
    """As direct requests, beside lines that name one."""
    _, client = start("batch_delay=0")
    nameless = [chat_line(number) for number in (0, 2)]
    for line in nameless:
        del line["body"]["model"]

    batch = wait(client, submit(client, [nameless[0], chat_line(1), nameless[1]]))

    models = {line["custom_id"]: line["response"]["body"]["model"] for line in content(client, batch.output_file_id)}
    assert models == {"a-0": "mock", "a-1": "m", "a-2": "mock"}


def test_a_stream_is_an_error_of_its_line(start: Start) -> None:
    """Nobody could read it."""
    _, client = start("batch_delay=0")
    line = chat_line(0)
    line["body"]["stream"] = True

    (error,) = content(client, wait(client, submit(client, [line])).error_file_id)

    assert error["response"]["body"]["error"]["param"] == "stream"


@pytest.mark.parametrize(
    "fields",
    [{"purpose": "batch"}, {"file": "{}"}, {"file": "{}", "purpose": "none"}, "no form"],
)
async def test_an_upload_that_is_not_complete_is_refused(fields: dict[str, str] | str) -> None:
    """With what is missing."""
    data: Any = fields if isinstance(fields, str) else multipart(fields)
    async with (
        MockServer(MockSettings(latency=0)) as server,
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/files", data=data) as response,
    ):
        told = await response.json()

    assert (response.status, bool(told["error"]["message"])) == (400, True)


def multipart(fields: dict[str, str]) -> aiohttp.MultipartWriter:
    form = aiohttp.MultipartWriter("form-data")
    for name, text in fields.items():
        form.append(text).set_content_disposition("form-data", name=name)
    return form


async def test_a_file_is_not_held_in_memory() -> None:
    """100 MB go up, and come down again."""

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield (b"x" * 1023 + b"\n") * 1024

    form, size = multipart({"purpose": "batch"}), 0
    form.append(blocks()).set_content_disposition("form-data", name="file", filename="f")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with MockServer(MockSettings(latency=0)) as server, aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/files", data=form) as response:
            identity = (await response.json())["id"]
        async with session.get(f"{server.url}/files/{identity}/content") as response:
            async for block in response.content.iter_any():
                size += len(block)

    assert size == 100 * 1024 * 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{"a":1}\n\r\n--B--\r\n'
)
HEAD = (
    "POST /v1/files HTTP/1.1\r\nHost: mock\r\n"
    f"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: {len(FORM)}\r\n\r\n"
)


def test_a_form_may_come_letter_by_letter(start: Start) -> None:
    """What is in it does not depend on that."""
    server, client = start("")
    with socket.create_connection(address_of(server)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for letter in HEAD.encode() + FORM:
            connection.sendall(bytes([letter]))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")

    (file,) = client.files.list().data
    assert (file.bytes, file.purpose, client.files.content(file.id).read()) == (8, "batch", b'{"a":1}\n')


@pytest.mark.parametrize("sent", [10, 100, len(FORM) - 12, len(FORM) - 1])
def test_an_upload_that_breaks_off_is_not_stored(start: Start, sent: int) -> None:
    """As of a client that is killed."""
    server, client = start("")
    with socket.create_connection(address_of(server)) as connection:
        connection.sendall(HEAD.encode() + FORM[:sent])
    deadline_s = time.monotonic() + WAIT_S
    while server.received < 1 or server.in_flight:
        assert time.monotonic() < deadline_s

    assert client.files.list().data == []


def address_of(server: MockServer) -> tuple[str, int]:
    url = urlsplit(server.url)
    return str(url.hostname), int(url.port or 0)


def test_calls_need_the_key(start: Start) -> None:
    """All of them."""
    server, client = start("key=secret")
    for call in (client.batches.list, client.files.list, lambda: submit(client, chat_lines(1))):
        with pytest.raises(openai.AuthenticationError):
            call()
    with openai.OpenAI(api_key="secret", base_url=server.url) as allowed:
        assert allowed.batches.list().data == []


def test_a_start_whose_reply_is_lost_has_started(start_mock: StartMock, tmp_path: Path) -> None:
    """As a fault that breaks the connection does it: the listing knows the batch. One that gets a 500 has not."""
    for kind, started in (("closed", 1), ("500", 0)):
        faults = tmp_path / f"{kind}.toml"
        faults.write_text(f'[[fault]]\nkind = "{kind}"\ncontaining = "completion_window"\n')
        server = start_mock(f"latency=0&batch_delay=0&faults={faults}")
        with connect(server) as client, pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
            submit(client, chat_lines(1))

        with connect(server) as client:
            assert len(client.batches.list().data) == started


AZURE_LINES = [{**chat_line(number), "url": "/chat/completions"} for number in range(5)]


@pytest.fixture
def azure(start_mock: StartMock) -> Iterator[openai.AzureOpenAI]:
    server = start_mock("latency=0&batch_delay=0.1&key=k")
    url = server.url.removesuffix("/v1")
    with openai.AzureOpenAI(api_key="k", azure_endpoint=url, api_version="2024-10-21", max_retries=0) as client:
        yield client


def test_azure_has_batches(azure: openai.AzureOpenAI) -> None:
    """A file can be used when it is processed."""
    data = b"".join(orjson.dumps(line) + b"\n" for line in AZURE_LINES)
    file = azure.files.create(file=("lines.jsonl", data), purpose="batch")
    asked: Any = {"input_file_id": file.id, "endpoint": "/chat/completions", "completion_window": "24h"}
    assert file.to_dict()["status"] == "pending"
    with pytest.raises(openai.BadRequestError, match="processed"):
        azure.batches.create(**asked)
    while azure.files.retrieve(file.id).to_dict()["status"] == "pending":
        pass

    batch = wait(azure, azure.batches.create(**asked))

    assert batch.status == "completed"
    assert {line["custom_id"] for line in content(azure, batch.output_file_id)} == {f"a-{n}" for n in range(5)}
    assert [one.id for one in azure.batches.list()] == [batch.id]
    with pytest.raises(openai.NotFoundError, match="none"):
        azure.batches.retrieve("none")


def test_azure_has_the_same_by_its_newer_paths(azure: openai.AzureOpenAI) -> None:
    """`/openai/v1`, with the plain client."""
    url = f"{str(azure.base_url).rstrip('/')}/v1/"
    with openai.OpenAI(api_key="k", base_url=url, max_retries=0) as client:
        assert client.batches.list().data == []
        assert client.files.list().data == []
