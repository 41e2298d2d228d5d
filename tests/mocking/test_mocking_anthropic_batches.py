"""Message batches: Anthropic's official client starts, watches, lists, cancels, collects and deletes."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types.messages import MessageBatch

from llmblast.mocking.server import MockServer
from tests.conftest import StartMock

WAIT_S = 20.0
Start = Callable[[str], tuple[MockServer, anthropic.Anthropic]]


@pytest.fixture
def start(start_mock: StartMock) -> Iterator[Start]:
    """Starts a mock with these settings and a client of it."""
    with ExitStack() as stack:

        def start(query: str) -> tuple[MockServer, anthropic.Anthropic]:
            server = start_mock(f"latency=0&{query}")
            url = server.url.removesuffix("/v1")
            return server, stack.enter_context(anthropic.Anthropic(api_key="k", base_url=url, max_retries=0))

        yield start


def requests(count: int) -> list[Any]:
    return [request(f"a-{number}", content=f"Question {number} about ships?") for number in range(count)]


def request(custom_id: str, content: str = "Ships?", **more: Any) -> Any:
    params = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": content}], **more}
    return {"custom_id": custom_id, "params": params}


def wait(client: anthropic.Anthropic, batch: MessageBatch) -> MessageBatch:
    deadline_s = time.monotonic() + WAIT_S
    while (batch := client.messages.batches.retrieve(batch.id)).processing_status != "ended":
        assert time.monotonic() < deadline_s, batch
    return batch


def results(client: anthropic.Anthropic, batch: MessageBatch) -> dict[str, Any]:
    return {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}


def kinds(found: dict[str, Any]) -> list[str]:
    return sorted(result.type for result in found.values())


def test_a_batch_has_the_answers_of_direct_requests(start: Start) -> None:
    """In another order; counts change at the end only."""
    _, client = start("batch_delay=0.1")
    asked = requests(30)

    batch = client.messages.batches.create(requests=asked)
    ended = wait(client, batch)
    found = results(client, ended)

    assert (batch.processing_status, batch.request_counts.processing, batch.results_url) == ("in_progress", 30, None)
    assert (ended.request_counts.processing, ended.request_counts.succeeded) == (0, 30)
    assert list(found) != [one["custom_id"] for one in asked]
    for one in asked:
        direct = client.messages.create(**one["params"])
        assert found[one["custom_id"]].message.to_dict() == {
            **direct.to_dict(),
            "id": found[one["custom_id"]].message.id,
        }


def test_one_request_that_is_wrong_does_not_stop_the_others(start: Start) -> None:
    """It has the error that it would have had alone."""
    _, client = start("batch_delay=0")

    batch = wait(client, client.messages.batches.create(requests=[*requests(3), request("bad", top_p=7)]))

    found = results(client, batch)
    assert kinds(found) == ["errored", "succeeded", "succeeded", "succeeded"]
    assert found["bad"].error.error.type == "invalid_request_error"
    assert batch.request_counts.errored == 1


def test_a_share_of_the_requests_expires(start: Start) -> None:
    """These are not billed."""
    server, client = start("batch_delay=0&batch_expire=0.3")

    batch = wait(client, client.messages.batches.create(requests=requests(10)))

    found = results(client, batch)
    assert kinds(found) == ["expired"] * 3 + ["succeeded"] * 7
    assert (batch.request_counts.expired, batch.request_counts.canceled) == (3, 0)
    billed = {event["custom_id"] for event in server.batch_ledger if event.get("billed")}
    assert billed == {name for name, result in found.items() if result.type == "succeeded"}


def test_a_canceled_batch_keeps_what_it_has(start: Start) -> None:
    """The rest is canceled, and the batch may be deleted then."""
    server, client = start("batch_delay=1000")
    batch = client.messages.batches.create(requests=requests(10))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.delete(batch.id)

    canceling = client.messages.batches.cancel(batch.id)
    ended = wait(client, batch)

    assert (canceling.processing_status, canceling.cancel_initiated_at is None) == ("canceling", False)
    assert (kinds(results(client, ended)), ended.request_counts.canceled) == (["canceled"] * 10, 10)
    assert [event for event in server.batch_ledger if event["event"] == "batch_line"] == []
    with pytest.raises(anthropic.BadRequestError, match="ended"):
        client.messages.batches.cancel(batch.id)
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)


def test_batches_are_listed_newest_first(start: Start) -> None:
    """By pages, forwards and backwards."""
    _, client = start("batch_delay=0")
    ids = [client.messages.batches.create(requests=requests(1)).id for _ in range(5)][::-1]

    assert [batch.id for batch in client.messages.batches.list(limit=2)] == ids
    assert [batch.id for batch in client.messages.batches.list(after_id=ids[1])] == ids[2:]
    assert [batch.id for batch in client.messages.batches.list(before_id=ids[3], limit=2).data] == ids[1:3]


def test_a_new_batch_may_be_missing_in_the_list(start: Start) -> None:
    """It is there all the same."""
    _, client = start("batch_delay=0&batch_lag=1000")
    batch = client.messages.batches.create(requests=requests(1))

    assert client.messages.batches.list().data == []
    assert client.messages.batches.retrieve(batch.id).id == batch.id


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], "at least 1"),
        ([request("a"), request("a")], "not unique"),
        ([request("has space")], "pattern"),
        ([request("x" * 65)], "pattern"),
        ([{"custom_id": "a"}], "Field required"),
    ],
)
def test_what_the_start_checks(start: Start, asked: list[Any], told: str) -> None:
    """A wrong batch is not started."""
    server, client = start("batch_delay=0")

    with pytest.raises(anthropic.BadRequestError, match=told):
        client.messages.batches.create(requests=asked)

    assert server.batch_ledger == []


def test_a_full_queue_and_a_rejected_batch_are_told_at_the_start(start: Start) -> None:
    """By 429, and by 400."""
    _, client = start("batch_delay=1000&batch_queue=15")
    client.messages.batches.create(requests=requests(10))
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.create(requests=requests(6))
    client.messages.batches.create(requests=requests(5))

    _, client = start("batch_reject=1")
    with pytest.raises(anthropic.BadRequestError, match="batch_reject"):
        client.messages.batches.create(requests=requests(1))


def test_a_large_batch_is_read_as_it_comes(start: Start) -> None:
    """Its results have letters of all alphabets whole."""
    _, client = start("batch_delay=0&tokens=4")
    content = "Straße 💡 " * 3000

    batch = wait(client, client.messages.batches.create(requests=[request(f"a-{n}", content) for n in range(60)]))

    assert kinds(results(client, batch)) == ["succeeded"] * 60


def test_results_are_not_there_before_the_end(start_mock: StartMock, start: Start) -> None:
    """And errors have the form of the API."""
    _, client = start("batch_delay=1000")
    batch = client.messages.batches.create(requests=requests(1))

    with pytest.raises(anthropic.AnthropicError, match="results_url"):
        client.messages.batches.results(batch.id)
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_a_start_whose_reply_is_lost_has_started(start: Start, tmp_path: Path) -> None:
    """A fault is for calls by their method and path."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "closed"\ncontaining = "POST /v1/messages/batches"\n')
    _, client = start(f"batch_delay=0&faults={faults}")

    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=requests(2))

    (batch,) = client.messages.batches.list()
    assert kinds(results(client, wait(client, batch))) == ["succeeded"] * 2


@pytest.mark.parametrize(
    "text",
    [
        b"{not json",
        b'{"requests": [{"custom_id": "a", "params": {"model": "\\ud800"}}]}',
        b'{"requests": [' + b"[" * 100_000,
        b'{"requests": 7}',
        b"[]",
    ],
)
def test_a_body_that_cannot_be_read_is_refused(start: Start, text: bytes) -> None:
    """Whatever is in it."""
    _, client = start("batch_delay=0")

    with pytest.raises(anthropic.BadRequestError):
        client.post("/v1/messages/batches", cast_to=object, content=text)
