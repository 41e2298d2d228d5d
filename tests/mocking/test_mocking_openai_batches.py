"""Batches of OpenAI and Azure: their official client uploads, starts, watches, lists, cancels and collects."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import orjson
import pytest
from openai.types import Batch

from llmblast.mocking.server import MockServer
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
