"""What each API has in a form of its own: lines, groups of lines, results, states."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from llmblast.batching import BATCH_APIS, anthropic, gemini
from llmblast.batching.anthropic import AnthropicBatches
from llmblast.batching.api import (
    MAX_POLL_S,
    MIN_POLL_S,
    Access,
    BatchApi,
    BatchEnd,
    BatchFile,
    BatchResult,
    BatchState,
    Finding,
    Found,
    NotFound,
    Unfinished,
    poll_interval_s,
)
from llmblast.batching.azure import AzureBatches
from llmblast.batching.gemini import GeminiBatches
from llmblast.batching.http import url_below
from llmblast.batching.listing import LISTING_LAG_S, look_for
from llmblast.batching.members import count_in, objects_in, time_in
from llmblast.batching.mistral import MistralBatches
from llmblast.batching.openai import OpenAIBatches

CHAT = "chat/completions"
GEMINI = "models/{model}:generateContent"


def access_to(url: str) -> Access:
    return Access("e", url, dict)


@pytest.mark.parametrize(
    ("kind", "url", "client"),
    [
        ("openai", "https://api.openai.com/v1", OpenAIBatches),
        ("openai", "https://api.mistral.ai/v1", MistralBatches),
        ("openai-responses", "https://api.openai.com/v1", OpenAIBatches),
        ("azure", "https://r.openai.azure.com/openai/v1", AzureBatches),
        ("anthropic", "https://api.anthropic.com/v1", AnthropicBatches),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta", GeminiBatches),
    ],
)
def test_the_kind_of_a_provider_names_its_client(kind: str, url: str, client: type[object]) -> None:
    """Mistral's host has batches of its own behind the requests of OpenAI."""
    assert type(BATCH_APIS[kind](access_to(url))) is client


AZURE_V1 = "https://r.openai.azure.com/openai/v1"
AZURE_DATED = "https://r.openai.azure.com/openai/deployments/d1?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("client", "base", "path", "line"),
    [
        (OpenAIBatches, "https://h/any/v1", CHAT, {"url": "/v1/chat/completions", "method": "POST", "body": {"a": 1}}),
        (AzureBatches, AZURE_V1, CHAT, {"url": "/v1/chat/completions", "method": "POST", "body": {"a": 1}}),
        (
            AzureBatches,
            AZURE_DATED,
            CHAT,
            {"url": "/chat/completions", "method": "POST", "body": {"a": 1, "model": "d1"}},
        ),
        (
            AzureBatches,
            AZURE_DATED,
            f"deployments/d%202/{CHAT}",
            {"url": "/chat/completions", "method": "POST", "body": {"a": 1, "model": "d 2"}},
        ),
        (MistralBatches, "https://h/v1", CHAT, {"body": {"a": 1}}),
        (AnthropicBatches, "https://h/v1", "v1/messages", {"params": {"a": 1}}),
    ],
)
def test_a_line_is_one_line_without_a_stream(
    client: Callable[[Access], BatchApi], base: str, path: str, line: dict[str, object]
) -> None:
    """Whatever the body looks like."""
    body = b'{"a":\r\n 1,\n"stream":true,"stream_options":{"include_usage":true}}'

    rendered = client(access_to(base)).render_line("m-1", path, body, "m")

    assert rendered.count(b"\n") == 1
    assert rendered.endswith(b"\n")
    assert orjson.loads(rendered) == {"custom_id": "m-1", **line}


def test_a_line_for_gemini_has_a_key() -> None:
    """And the request as it is sent directly."""
    line = GeminiBatches(access_to("https://h/v1beta")).render_line("m-1", GEMINI, b'{"contents":[\n]}', "g")

    assert line == b'{"key":"m-1","request":{"contents":[ ]}}\n'


@pytest.mark.parametrize(
    ("client", "path", "model", "group"),
    [
        (OpenAIBatches, CHAT, "m", "chat/completions m"),
        (OpenAIBatches, CHAT, None, "chat/completions "),
        (OpenAIBatches, "rerank", "m", None),
        (AzureBatches, f"deployments/d/{CHAT}", "m", "chat/completions d"),
        (MistralBatches, CHAT, None, None),
        (MistralBatches, "fim/completions", "c", "fim/completions c"),
        (AnthropicBatches, "v1/messages", "c", "v1/messages"),
        (AnthropicBatches, "v1/messages/count_tokens", "c", None),
        (GeminiBatches, GEMINI, "g", "models/g"),
        (GeminiBatches, GEMINI, "tunedModels/t", "tunedModels/t"),
        (GeminiBatches, GEMINI, None, None),
        (GeminiBatches, "models/g-2:generateContent", None, "models/g-2"),
        (GeminiBatches, "models/g-2:streamGenerateContent", None, None),
    ],
)
def test_lines_that_share_a_batch_have_one_group(
    client: Callable[[Access], BatchApi], path: str, model: str | None, group: str | None
) -> None:
    """None for what the API has no batches for."""
    assert client(access_to("https://h/v1")).group_of(path, model) == group


def anthropic_line(kind: str, **more: object) -> dict[str, object]:
    return {"custom_id": "m-1", "result": {"type": kind, **more}}


def anthropic_error(kind: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "r"}


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        (anthropic_line("succeeded", message={"type": "message"}), 200, {"type": "message"}),
        (
            anthropic_line("errored", error=anthropic_error("invalid_request_error")),
            400,
            anthropic_error("invalid_request_error"),
        ),
        (
            anthropic_line("errored", error=anthropic_error("overloaded_error")),
            529,
            anthropic_error("overloaded_error"),
        ),
        (anthropic_line("errored", error=anthropic_error("new_error")), 500, anthropic_error("new_error")),
        (
            anthropic_line("errored", error={"type": "api_error", "message": "no"}),
            500,
            {"type": "error", "error": {"type": "api_error", "message": "no"}},
        ),
        (anthropic_line("expired"), None, "the request was expired in its batch"),
        (anthropic_line("canceled"), None, "the request was canceled in its batch"),
    ],
)
def test_a_result_of_anthropic_is_a_reply(line: object, status: int | None, body: object) -> None:
    """With the status that the direct API has for this type of error."""
    assert_same(anthropic.read_result(orjson.dumps(line)), status, body)


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        ({"key": "m-1", "response": {"candidates": []}}, 200, {"candidates": []}),
        (
            {"key": "m-1", "error": {"code": 3, "message": "bad", "details": [1]}},
            400,
            {"error": {"code": 400, "message": "bad", "details": [1], "status": "INVALID_ARGUMENT"}},
        ),
        (
            {"key": "m-1", "error": {"code": 8, "message": "full"}},
            429,
            {"error": {"code": 429, "message": "full", "status": "RESOURCE_EXHAUSTED"}},
        ),
        (
            {"key": "m-1", "error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}},
            503,
            {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}},
        ),
        (
            {"key": "m-1", "error": {"message": "?"}},
            500,
            {"error": {"message": "?", "code": 500, "status": "UNKNOWN"}},
        ),
        ({"key": "m-1", "error": {"code": 1, "message": "cancelled"}}, None, "cancelled"),
    ],
)
def test_a_result_of_gemini_is_a_reply(line: object, status: int | None, body: object) -> None:
    """Codes of gRPC become statuses of HTTP."""
    assert_same(gemini.read_result(orjson.dumps(line)), status, body)


@pytest.mark.parametrize(("has_expired", "status"), [(True, None), (False, 504)])
def test_a_deadline_is_that_of_the_batch_where_it_has_expired(has_expired: bool, status: int | None) -> None:
    """Else that of the request, which was tried."""
    line = orjson.dumps({"key": "m-1", "error": {"code": 4, "message": "late"}})

    read = gemini.read_result(line, has_expired=has_expired)

    assert read is not None
    assert (None if isinstance(read.reply, Unfinished) else read.reply.status) == status


def assert_same(read: BatchResult | None, status: int | None, body: object) -> None:
    assert read is not None
    assert read.custom_id == "m-1"
    if isinstance(read.reply, Unfinished):
        assert (None, read.reply.reason) == (status, body)
    else:
        assert (read.reply.status, orjson.loads(read.reply.body)) == (status, body)


def test_lines_without_a_name_are_left_out() -> None:
    """Nobody could tell whose they are."""
    assert anthropic.read_result(b'{"result":{"type":"expired"}}') is None
    assert gemini.read_result(b'{"response":{}}') is None
    assert gemini.read_result(b"[]") is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("BATCH_STATE_PENDING", (BatchState.WAITING, None)),
        ("JOB_STATE_RUNNING", (BatchState.RUNNING, None)),
        ("BATCH_STATE_SUCCEEDED", (BatchState.ENDED, BatchEnd.COMPLETED)),
        ("JOB_STATE_EXPIRED", (BatchState.ENDED, BatchEnd.EXPIRED)),
        ("BATCH_STATE_CANCELLED", (BatchState.ENDED, BatchEnd.CANCELLED)),
        ("BATCH_STATE_NEW", (BatchState.RUNNING, None)),
    ],
)
def test_states_of_gemini_have_two_prefixes(state: str, expected: tuple[BatchState, BatchEnd | None]) -> None:
    """By the time of the API."""
    batch = {"state": state, "displayName": "m1", "createTime": "2026-01-01T00:00:00.123456789Z"}

    status = GeminiBatches(access_to("https://h/v1beta"))._read({"name": "batches/1", "metadata": batch})

    assert (status.state, status.end) == expected
    assert (status.id, status.mark, status.created_at_s) == ("batches/1", "m1", 1767225600.123456)


def test_a_completed_batch_without_files_has_not_ended_yet() -> None:
    """OpenAI names the files a moment later; what has been paid for must not be sent again."""
    batches = OpenAIBatches(access_to("https://h/v1"), wall_clock=lambda: 1000.0)
    batch = {"id": "b", "status": "completed", "completed_at": 999, "request_counts": {"total": 2, "completed": 2}}

    assert batches._read(batch).state is BatchState.RUNNING
    assert batches._read({**batch, "completed_at": 1}).state is BatchState.ENDED
    assert batches._read({**batch, "output_file_id": "f"}).state is BatchState.ENDED


def test_odd_answers_are_read_as_far_as_they_go() -> None:
    """Other servers leave out members, or have other types there."""
    status = OpenAIBatches(access_to("https://h/v1"))._read(
        {"id": "b", "status": "FAILED", "metadata": None, "errors": [], "request_counts": "?", "created_at": None}
    )

    assert (status.state, status.end, status.message, status.counts.total) == (
        *(BatchState.ENDED, BatchEnd.FAILED),
        *("", None),
    )


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1767225600, 1767225600.0),
        (1767225600123, 1767225600.123),
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T01:00:00+01:00", 1767225600.0),
        ("2026-01-01T00:00:00", 1767225600.0),
        ("soon", None),
        (None, None),
        (True, None),
    ],
)
def test_moments_are_read_in_the_forms_of_all_apis(value: object, moment: float | None) -> None:
    """Seconds, milliseconds and dates."""
    assert time_in({"at": value}, "at") == moment


def test_counts_may_be_texts() -> None:
    """As Google writes those of 64 bits."""
    assert (count_in({"n": "12"}, "n"), count_in({"n": 12}, "n"), count_in({"n": "x"}, "n")) == (12, 12, None)
    assert objects_in({"data": [1, {"a": 2}]}, "data") == [{"a": 2}]


def test_a_url_keeps_its_query() -> None:
    """And segments are quoted."""
    assert url_below("https://h/v1/?v=1", "files", "a/b c", after="x y") == "https://h/v1/files/a/b%20c?v=1&after=x+y"


def test_polls_grow_rarer() -> None:
    """From a second to a minute."""
    assert [poll_interval_s(age_s) for age_s in (0, 50, 1e6)] == [MIN_POLL_S, 5.0, MAX_POLL_S]


class Listing:
    """A listing in which the batch is missing for some looks."""

    def __init__(self, misses: int) -> None:
        self.misses = misses
        self.now_s = 1000.0

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: object = ()) -> Finding:
        self.misses -= 1
        if self.misses >= 0:
            return NotFound()
        return Found(OpenAIBatches(access_to("https://h/v1"))._read({"id": "b"}))

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def clock(self) -> float:
        return self.now_s


BATCH = BatchFile(Path("f"), "m1", 1, CHAT)


@pytest.mark.parametrize(("misses", "age_s", "is_found"), [(3, 0.0, True), (1000, 0.0, False), (1, 1e6, False)])
async def test_a_batch_counts_as_not_started_once_its_start_is_old(misses: int, age_s: float, is_found: bool) -> None:
    """A listing may lag, but not for long."""
    listing = Listing(misses)

    finding = await look_for(
        listing, BATCH, 1000.0 - age_s, 1000.0 - age_s, sleep=listing.sleep, wall_clock=listing.clock
    )

    assert isinstance(finding, Found) is is_found
    assert is_found or age_s or listing.now_s >= 1000.0 + LISTING_LAG_S


async def test_a_start_in_the_future_waits_from_now_on() -> None:
    """The clock was set back since then."""
    listing = Listing(1000)

    finding = await look_for(listing, BATCH, 9e9, 9e9, sleep=listing.sleep, wall_clock=listing.clock)

    assert isinstance(finding, NotFound)
    assert LISTING_LAG_S <= listing.now_s - 1000.0 < 2 * LISTING_LAG_S
