"""Lines of several formats and APIs in one run: where they go, what is sent, and what their records hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import RunLlmblast, records
from tests.path_server import PathServer, serving

REPLIES: dict[str, object] = {
    "/v1/responses": {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
        "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12},
    },
    "/v1/moderations": {"results": [{"flagged": False}]},
    "/v1/rerank": {"results": [{"index": 0, "relevance_score": 0.5}]},
    "/v2/rerank": {"results": [{"index": 0, "relevance_score": 0.7}]},
    "/v1/chat/completions": {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]},
}


@pytest.fixture
def server() -> Iterator[PathServer]:
    with serving(REPLIES) as server:
        yield server


def write_lines(path: Path, *lines: dict[str, Any]) -> None:
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))


CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_batch_lines_go_where_they_say_or_fit(
    tmp_path: Path, server: PathServer, llmblast: RunLlmblast, transport: str
) -> None:
    """Each record holds the whole reply."""
    write_lines(
        tmp_path / "batch.jsonl",
        {"custom_id": "a", "body": CHAT},
        {"custom_id": 2, "method": "post", "url": "/openai/deployments/m/chat/completions?v=1", "body": CHAT},
        {"custom_id": "c", "url": "/v1/responses", "body": {"input": "Hello"}},
        {"custom_id": "d", "url": "/v1/moderations", "body": {"input": "Hello"}},
        {"custom_id": "e", "url": "/v1/rerank", "body": {"query": "a", "documents": ["b"]}},
        {"custom_id": "f", "url": "/v2/rerank", "body": {"query": "a", "documents": ["b"]}},
    )

    done = llmblast("run", "batch.jsonl", "-u", f"{server.host}/v1", "-m", "m", "-j", "1", "--transport", transport)

    assert done.returncode == 0, done.stderr
    saved = {record["custom_id"]: record["response"]["body"] for record in records(tmp_path / "save.jsonl")}
    assert [path for path, _, _ in server.received] == [
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/moderations",
        "/v1/rerank",
        "/v2/rerank",
    ]
    assert saved == dict(zip(["a", 2, "c", "d", "e", "f"], (REPLIES[p] for p, _, _ in server.received), strict=True))


def test_raw_lines_of_several_apis(tmp_path: Path, server: PathServer, llmblast: RunLlmblast) -> None:
    """Own fields stay here; a text is told where there is one, else the reply as it is."""
    write_lines(
        tmp_path / "raw.jsonl",
        {"id": "a1", **CHAT, "source": "wiki"},
        {"model": "m", **CHAT, "metadata": {"row": "1"}},
        {"model": "m", "input": "Say hi", "instructions": "be short", "max_output_tokens": 50},
        {"model": "m", "query": "a", "documents": ["b"]},
    )

    done = llmblast(
        "run", "raw.jsonl", "-u", f"{server.host}/v1/chat/completions", "-m", "m", "-j", "1", "--own-fields", "source"
    )

    assert done.returncode == 0, done.stderr
    first, second, third, fourth = records(tmp_path / "save.jsonl")
    assert server.received[0][::2] == ("/v1/chat/completions", {"model": "m", **CHAT})
    assert server.received[1].body["metadata"] == {"row": "1"}
    assert (first["id"], first["source"], first["response"], first["input"]) == ("a1", "wiki", "fine", CHAT)
    assert (second["response"], "body" in second) == ("fine", False)
    assert (third["response"], third["finish_reason"], third["usage"]["output_tokens"]) == ("Hi", "stop", 5)
    assert {"results": fourth["response"]} == REPLIES["/v1/rerank"]
    assert "7 in, 5 out" in done.stderr


def test_a_url_of_the_responses_api_takes_lines_with_an_input(
    tmp_path: Path, server: PathServer, llmblast: RunLlmblast
) -> None:
    """They could be for embeddings, too."""
    write_lines(tmp_path / "raw.jsonl", {"model": "m", "input": "Say hi"})

    done = llmblast("run", "raw.jsonl", "-u", f"{server.host}/v1/responses")

    assert done.returncode == 0, done.stderr
    assert [path for path, _, _ in server.received] == ["/v1/responses"]
