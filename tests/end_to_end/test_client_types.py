"""Recorded replies are read by the types of the official clients, also those that came as streams nobody asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic.types
import orjson
import pytest
from google.genai import types
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel, TypeAdapter

from llmblast.mocking.answers import Answers
from llmblast.mocking.server import ScriptedReply
from llmblast.mocking.settings import MockSettings
from tests.conftest import RunLlmblast, StartMock, records

PROMPT = "Count the ships in the fog"
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
CONTENTS: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}
TYPES: dict[str, tuple[type[BaseModel], Callable[[Any], object]]] = {
    "openai": (ChatCompletion, lambda reply: reply.choices[0].message.content),
    "completions": (Completion, lambda reply: reply.choices[0].text),
    "embeddings": (CreateEmbeddingResponse, lambda reply: reply.data[0].embedding),
    "openai-responses": (Response, lambda reply: reply.output_text),
    "anthropic": (anthropic.types.Message, lambda reply: reply.content[0].text),
    "gemini": (types.GenerateContentResponse, lambda reply: reply.text),
}
LINES: dict[str, dict[str, Any]] = {
    "completions": {"model": "m", "prompt": PROMPT},
    "embeddings": {"model": "m", "input": PROMPT},
}
URLS = {"openai": "/v1", "completions": "/v1", "embeddings": "/v1", "openai-responses": "/v1/responses"}
STREAMS = {
    "openai": ("chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    "anthropic": ("messages", {**CHAT, "max_tokens": 500, "stream": True}),
    "gemini": ("streamGenerateContent", {**CONTENTS, "model": "m"}),
}


def as_type(name: str, body: object) -> tuple[Any, object]:
    """Return the body as the client has it, and its text."""
    kind, text_of = TYPES[name]
    reply = TypeAdapter(kind).validate_json(orjson.dumps(body), strict=name != "gemini")
    return reply, text_of(reply)


@pytest.mark.parametrize("name", TYPES)
def test_bodies_of_records(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, name: str) -> None:
    """As `--body always` keeps them."""
    kind = name if name in ("anthropic", "gemini", "openai-responses") else "openai"
    url = f"{start_mock().url.removesuffix('/v1')}{URLS.get(name, '')},kind={kind},model=m"
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps(LINES.get(name, {"input": PROMPT})))

    done = llmblast("run", "in.jsonl", "-u", url, "--body", "always")

    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "save.jsonl")
    assert as_type(name, record["body"])[1] == record["response"]


@pytest.mark.parametrize("name", STREAMS)
def test_streams_become_whole_replies(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, name: str) -> None:
    """Some gateways stream whether asked or not: the record has the reply that the client would have made of it."""
    operation, asked = STREAMS[name]
    stream = Answers(MockSettings()).answer(operation, orjson.dumps(asked)).body
    assert stream.count(b"data: ") > 5
    server = start_mock(
        script=lambda index, body: ScriptedReply(200, stream, headers={"Content-Type": "text/event-stream"})
    )
    url = f"{server.url.removesuffix('/v1')}{URLS.get(name, '')},kind={name},model=m"
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps({"input": PROMPT}))

    done = llmblast("run", "in.jsonl", "-u", url, "--body", "always")

    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "save.jsonl")
    reply, text = as_type(name, record["body"])
    assert PROMPT.partition(" ")[2] in record["response"]
    assert text == record["response"]
    usage = reply.usage_metadata if name == "gemini" else reply.usage
    counts = {"openai": "completion_tokens", "anthropic": "output_tokens", "gemini": "candidates_token_count"}
    assert getattr(usage, counts[name]) > 5


@pytest.mark.parametrize("output_format", ["openai-batch", "anthropic-batch"])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_bodies_of_batch_records(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, kind: str, output_format: str
) -> None:
    """Whichever API answered."""
    url = f"{start_mock().url},kind={kind},model=m"
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps({"input": PROMPT}))

    llmblast("run", "in.jsonl", "-u", url, "--output-format", output_format)

    (record,) = records(tmp_path / "save.jsonl")
    if output_format == "openai-batch":
        assert "ships" in str(as_type("openai", record["response"]["body"])[1])
    else:
        assert "ships" in str(as_type("anthropic", record["result"]["message"])[1])
