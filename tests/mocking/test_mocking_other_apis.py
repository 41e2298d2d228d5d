"""The Responses API, rerank and score at the mock: official client, and runs over real sockets."""

from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai.types.responses import Response

from tests.conftest import RunLlmblast, StartMock, records


def test_the_official_client_gets_a_response(start_mock: StartMock) -> None:
    with openai.OpenAI(base_url=start_mock().url, api_key="sk-test", max_retries=0) as client:
        reply = client.responses.create(model="m", input="Count the ships in the fog", instructions="Be brief")
        cut = client.responses.create(model="m", input="Count the ships " * 40, max_output_tokens=16)
        with pytest.raises(openai.BadRequestError, match="max_output_tokens"):
            client.responses.create(model="m", input="x", max_output_tokens=1)

    assert "ships in the fog" in reply.output_text
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert cut.status in ("completed", "incomplete")


def run(llmblast: RunLlmblast, folder: Path, url: str, lines: list[object], *more: str) -> list[dict[str, Any]]:
    (folder / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    done = llmblast("run", "in.jsonl", "-u", url, *more)
    assert done.returncode == 0, done.stderr
    return sorted(records(folder / "save.jsonl"), key=lambda record: int(record["line"]))


def test_simple_lines_get_responses(start_mock: StartMock, llmblast: RunLlmblast, tmp_path: Path) -> None:
    """Their recorded bodies are what the official types take; cut answers are flagged as those of chat are."""
    lines: list[object] = [
        {"input": "Hello there", "system": "Be brief"},
        {"input": "a b c d e f g h i j k l m n o p q r s t u v w x y z", "params": {"max_tokens": 16}},
        {"input": [{"role": "user", "content": "Raw"}], "model": "m"},
    ]

    first, second, third = run(llmblast, tmp_path, f"{start_mock().url}/responses,model=m", lines, "--body", "always")

    for record in (first, second, third):
        reply = Response.model_validate(record["body"], strict=True)
        assert reply.output_text == record["response"]
        assert reply.usage is not None
        assert record["usage"]["output_tokens"] == reply.usage.output_tokens
    assert first["finish_reason"] == "stop"
    assert second["usage"]["output_tokens"] <= 16


def test_documents_are_ranked(start_mock: StartMock, llmblast: RunLlmblast, tmp_path: Path) -> None:
    """As vLLM and Jina answer, and, at /v2/rerank, as Cohere does."""
    line = {"id": "r", "query": "red fox", "documents": ["a dog", "a red fox", "a fox"]}
    url = start_mock().url
    (tmp_path / "2").mkdir()

    (vllm,) = run(llmblast, tmp_path, f"{url},model=m", [line])
    (cohere,) = run(llmblast, tmp_path, f"{url.removesuffix('/v1')}/v2/rerank,model=m", [line], "--overwrite")

    assert [result["index"] for result in vllm["response"]] == [1, 2, 0]
    assert vllm["response"][0]["document"] == {"text": "a red fox"}
    assert vllm["usage"]["prompt_tokens"] > 0
    assert [result["index"] for result in cohere["response"]] == [1, 2, 0]
    assert cohere["usage"] == {"billed_units": {"search_units": 1}}
    assert "body" not in vllm


@pytest.mark.parametrize("path", ["", "/score"])
def test_pairs_get_scores(start_mock: StartMock, llmblast: RunLlmblast, tmp_path: Path, path: str) -> None:
    line = {"text_1": "red fox", "text_2": ["a dog", "a red fox"], "model": "m"}

    (record,) = run(llmblast, tmp_path, f"{start_mock().url}{path}", [line])

    assert [result["score"] for result in record["response"]] == [0.0, 1.0]
    assert record["usage"]["total_tokens"] > 0
