"""Tokens that a provider had in its cache: each API has its own words for them."""

from typing import Any

import orjson
import pytest

from llmblast.models import Answer, Reply, Request
from llmblast.providers import PROVIDERS

CHAT: dict[str, Any] = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
RESPONSE: dict[str, Any] = {
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}],
    "status": "completed",
}
MESSAGE: dict[str, Any] = {"type": "message", "content": [{"type": "text", "text": "yes"}], "stop_reason": "end_turn"}
CANDIDATE: dict[str, Any] = {"candidates": [{"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}]}
CONVERSE: dict[str, Any] = {"output": {"message": {"content": [{"text": "yes"}]}}, "stopReason": "end_turn"}
COUNTS: dict[str, Any] = {"prompt_tokens": 5000, "completion_tokens": 9, "total_tokens": 5009}
DETAILS = {"cached_tokens": 4864, "audio_tokens": 0}


def answer_of(kind: str, data: dict[str, Any], path: str) -> Answer:
    request = Request(1, "0" * 16, b"{}", 1, body=b"{}", kind=kind, path=path)
    answer = PROVIDERS[kind].read_answer(request, Reply(200, body=orjson.dumps(data)))
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param("openai", {**CHAT, "usage": {**COUNTS, "prompt_tokens_details": DETAILS}}, id="OpenAI, vLLM"),
        pytest.param("azure", {**CHAT, "usage": {**COUNTS, "prompt_tokens_details": DETAILS}}, id="Azure"),
        pytest.param(
            "openai",
            {**CHAT, "usage": {**COUNTS, "prompt_cache_hit_tokens": 4864, "prompt_cache_miss_tokens": 136}},
            id="DeepSeek",
        ),
        pytest.param("openai", {**CHAT, "usage": {**COUNTS, "cached_tokens": 4864}}, id="Moonshot"),
        pytest.param(
            "openai-responses",
            {
                **RESPONSE,
                "usage": {
                    "input_tokens": 5000,
                    "output_tokens": 9,
                    "total_tokens": 5009,
                    "input_tokens_details": {"cached_tokens": 4864},
                },
            },
            id="Responses",
        ),
        pytest.param(
            "anthropic",
            {
                **MESSAGE,
                "usage": {
                    "input_tokens": 100,
                    "output_tokens": 9,
                    "cache_creation_input_tokens": 36,
                    "cache_read_input_tokens": 4864,
                },
            },
            id="Anthropic",
        ),
        pytest.param(
            "gemini",
            {
                **CANDIDATE,
                "usageMetadata": {
                    "promptTokenCount": 5000,
                    "candidatesTokenCount": 9,
                    "totalTokenCount": 5009,
                    "cachedContentTokenCount": 4864,
                },
            },
            id="Gemini",
        ),
        pytest.param(
            "bedrock",
            {**CONVERSE, "usage": {"inputTokens": 136, "outputTokens": 9, "cacheReadInputTokens": 4864}},
            id="Bedrock",
        ),
    ],
)
def test_cached_tokens_are_read_and_are_among_those_of_the_prompt(kind: str, data: dict[str, Any]) -> None:
    """The prompt counts as a whole, whatever part of it was in the cache."""
    path = "responses" if kind == "openai-responses" else "chat/completions"

    answer = answer_of(kind, data, path)

    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (5000, 9, 4864)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"prompt_tokens_details": None},
        {"prompt_tokens_details": {"cached_tokens": None}},
        {"prompt_tokens_details": {"audio_tokens": 3}},
        {"prompt_cache_hit_tokens": "many"},
        {"cached_tokens": -1},
    ],
)
def test_where_nothing_sensible_is_said_none_are_cached(more: dict[str, Any]) -> None:
    """Servers send null, and details of other things."""
    answer = answer_of("openai", {**CHAT, "usage": {**COUNTS, **more}}, "chat/completions")

    assert answer.cached_tokens == 0


MESSAGE_COUNTS: dict[str, Any] = {"input_tokens": 100, "output_tokens": 9, "cache_creation_input_tokens": 4000}
CONVERSE_COUNTS: dict[str, Any] = {"inputTokens": 100, "outputTokens": 9, "cacheWriteInputTokens": 4000}


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        pytest.param("anthropic", {**MESSAGE, "usage": MESSAGE_COUNTS}, 1000, id="Anthropic"),
        pytest.param(
            "anthropic",
            {
                **MESSAGE,
                "usage": {
                    **MESSAGE_COUNTS,
                    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 3000},
                },
            },
            3250,
            id="Anthropic, an hour",
        ),
        pytest.param("bedrock", {**CONVERSE, "usage": CONVERSE_COUNTS}, 1000, id="Bedrock"),
        pytest.param(
            "bedrock",
            {
                **CONVERSE,
                "usage": {**CONVERSE_COUNTS, "cacheDetails": [{"ttl": "1h", "inputTokens": 4000}, {"ttl": "5m"}, None]},
            },
            4000,
            id="Bedrock, an hour",
        ),
        pytest.param(
            "openai", {**CHAT, "usage": {**COUNTS, "cache_creation_input_tokens": 4000}}, 1000, id="through LiteLLM"
        ),
        pytest.param(
            "openai",
            {**CHAT, "usage": {**COUNTS, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 4000}}},
            1000,
            id="OpenAI, OpenRouter",
        ),
        pytest.param("openai", {**CHAT, "usage": {**COUNTS, "prompt_tokens_details": DETAILS}}, 0, id="none told"),
        pytest.param("anthropic", {**MESSAGE, "usage": {**MESSAGE_COUNTS, "cache_creation": None}}, 1000, id="null"),
    ],
)
def test_tokens_that_are_added_to_the_cache_cost_more_than_others(
    kind: str, data: dict[str, Any], expected: float
) -> None:
    """A quarter more for five minutes, twice as much for an hour."""
    assert answer_of(kind, data, "chat/completions").write_surcharge == expected
