"""Bodies and replies of one chat API in the form of the other one."""

from typing import Any

import orjson
import pytest

from llmblast.provider_contract import UnsupportedError
from llmblast.providers.translated_replies import make_chat, translate_reply
from llmblast.providers.translated_requests import CHAT, MESSAGES, translate_request

TOOL = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And here?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ],
    "stop": ["END"],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}],
    "tool_choice": "auto",
    "max_tokens": 9,
}
MESSAGES_BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And here?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            ],
        },
    ],
    "system": "Be brief.",
    "stop_sequences": ["END"],
    "tools": [{"name": "weather", "input_schema": TOOL}],
    "tool_choice": {"type": "auto"},
    "max_tokens": 9,
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "text", "text": "4", "citations": None},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 2}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": 5},
}
COMPLETION = {
    "id": "msg_1",
    "object": "chat.completion",
    "created": 0,
    "model": "claude",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "4",
                "refusal": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}}],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 8,
        "completion_tokens": 1,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 5},
    },
}


def test_a_chat_becomes_a_body_of_the_messages_api_and_back() -> None:
    """Roles, tools, images and parameters."""
    assert translate_request(CHAT_BODY, CHAT, MESSAGES) == MESSAGES_BODY
    assert translate_request(MESSAGES_BODY, MESSAGES, CHAT) == CHAT_BODY


@pytest.mark.parametrize(
    ("body", "dialect", "wanted"),
    [
        ({**CHAT_BODY, "seed": 1}, CHAT, MESSAGES),
        ({**CHAT_BODY, "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, CHAT, MESSAGES),
        ({**CHAT_BODY, "messages": "no"}, CHAT, MESSAGES),
        ({**MESSAGES_BODY, "thinking": {"type": "enabled"}}, MESSAGES, CHAT),
        ({**MESSAGES_BODY, "tools": [{"type": "web_search", "name": "web_search"}]}, MESSAGES, CHAT),
        ({**MESSAGES_BODY, "messages": [{"role": "user", "content": [{"type": "document"}]}]}, MESSAGES, CHAT),
        ({"input": "a"}, "openai.embeddings", MESSAGES),
    ],
)
def test_what_has_no_form_in_the_other_api_is_said(body: dict[str, Any], dialect: str, wanted: str) -> None:
    """Nothing is left out in silence."""
    with pytest.raises(UnsupportedError):
        translate_request(body, dialect, wanted)


def test_a_reply_becomes_one_of_the_other_api_and_back() -> None:
    """Text, calls, reason and counts."""
    assert orjson.loads(translate_reply(orjson.dumps(MESSAGE), "openai")) == COMPLETION
    assert orjson.loads(translate_reply(orjson.dumps(COMPLETION), "anthropic")) == MESSAGE


@pytest.mark.parametrize(
    "body",
    [b"not json", b"[]", b'{"object":"list","data":[]}', b'{"choices":[]}', b'{"type":"message","content":"x"}', b"{}"],
)
@pytest.mark.parametrize("kind", ["openai", "anthropic", "other"])
def test_other_replies_stay_as_they_are(body: bytes, kind: str) -> None:
    """Nothing that was paid for is lost."""
    assert translate_reply(body, kind) == body


def test_odd_members_of_a_reply_do_no_harm() -> None:
    """Whatever types they have."""
    body = {"choices": [{"message": {"content": None, "tool_calls": [1]}, "finish_reason": []}], "usage": 1}

    message = orjson.loads(translate_reply(orjson.dumps(body), "anthropic"))

    assert (message["content"], message["stop_reason"]) == ([], "end_turn")
    assert message["usage"] == {"input_tokens": 0, "output_tokens": 0}


def test_a_chat_is_made_of_an_answer() -> None:
    """Whose reply was not kept."""
    chat = make_chat("4", "length", {"input_tokens": 3, "output_tokens": 1}, None, "id")

    assert chat["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    assert chat["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "4", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
