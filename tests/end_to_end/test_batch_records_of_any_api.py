"""Records in a batch format have that format's members, whichever API answers."""

from pathlib import Path

import orjson
import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion

from llmblast.models import Answer
from llmblast.providers.answers_as_chats import translate_answer
from tests.conftest import RunLlmblast, records

KINDS = ["openai", "anthropic", "gemini", "bedrock", "vertex", "openai-responses", "azure"]
LINE = '{"input": "hello", "id": "a"}\n'


@pytest.mark.parametrize("kind", KINDS)
def test_an_anthropic_record_has_a_message(kind: str, tmp_path: Path, llmblast: RunLlmblast) -> None:
    (tmp_path / "in.jsonl").write_text(LINE)
    done = llmblast("run", "in.jsonl", "-u", f"mock:,kind={kind},model=m", "--output-format", "anthropic-batch")
    assert done.returncode == 0, done.stderr
    [record] = records(tmp_path / "save.jsonl")
    message = Message.model_validate(record["result"]["message"])
    assert message.content[0].type == "text"
    assert message.usage.output_tokens > 0
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "openai-responses"])
def test_an_openai_record_has_a_chat_completion(kind: str, tmp_path: Path, llmblast: RunLlmblast) -> None:
    (tmp_path / "in.jsonl").write_text(LINE)
    done = llmblast("run", "in.jsonl", "-u", f"mock:,kind={kind},model=m", "--output-format", "openai-batch")
    assert done.returncode == 0, done.stderr
    [record] = records(tmp_path / "save.jsonl")
    chat = ChatCompletion.model_validate(record["response"]["body"])
    assert chat.choices[0].finish_reason == "stop"
    assert chat.choices[0].message.content
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens > 0


CALLS = {
    "gemini": {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}}]},
    "bedrock": {
        "output": {"message": {"content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}}]}},
        "stopReason": "tool_use",
    },
}


@pytest.mark.parametrize("kind", CALLS)
def test_calls_of_tools_are_kept(kind: str) -> None:
    answer = Answer(None, "tool_calls", None, 3, 4, "m", says_more=True)
    body = translate_answer(orjson.dumps(CALLS[kind]), answer, "openai")
    [call] = orjson.loads(body)["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], orjson.loads(call["function"]["arguments"])) == ("f", {"a": 1})
    [block] = orjson.loads(translate_answer(orjson.dumps(CALLS[kind]), answer, "anthropic"))["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "f", {"a": 1})


@pytest.mark.parametrize("reply", [{"results": [{"flagged": False}]}, {"data": [{"url": "https://h/i.png"}]}])
def test_a_reply_that_is_no_chat_stays_as_it_is(reply: dict[str, object]) -> None:
    body = orjson.dumps(reply)
    assert translate_answer(body, Answer(), "openai") == body


def test_the_answer_of_a_described_api_becomes_a_chat() -> None:
    body = translate_answer(b'{"output":[{"text":"hi"}]}', Answer("hi", "stop", None, None, None, None), "openai")
    assert orjson.loads(body)["choices"][0]["message"]["content"] == "hi"
