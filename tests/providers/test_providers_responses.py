"""The Responses API: how prompts are written for it, and which endpoints speak it."""

from typing import Any

import orjson
import pytest
from openai.types.responses import Response

from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Answer, Prompt, RawBody, Reply, Request
from llmblast.provider_contract import UnsupportedError
from llmblast.providers import PROVIDERS, provider_of
from tests.media_parts import parts_of

RESPONSES = PROVIDERS["openai-responses"]
FUNCTION = {"name": "f", "parameters": {"type": "object"}}


def rendered(text: str = "Hi", system: str | None = None, images: tuple[str, ...] = (), **params: object) -> Any:
    path, body = RESPONSES.render(Prompt(text, system, parts_of(images), params))
    assert path == "responses"
    return orjson.loads(body)


def test_a_prompt_is_an_input_with_instructions() -> None:
    assert rendered() == {"input": "Hi"}
    assert rendered(system="Be brief", temperature=0) == {"input": "Hi", "instructions": "Be brief", "temperature": 0}


def test_images_are_parts_of_a_user_message() -> None:
    """The URL is a text here, an object in chat completions."""
    assert rendered(images=("https://h/a.png",))["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hi"},
                {"type": "input_image", "image_url": "https://h/a.png"},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_output_tokens": 5}, {"max_output_tokens": 5}),
        ({"n": 1, "seed": None}, {}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"reasoning": {"summary": "auto"}, "reasoning_effort": "low"},
         {"reasoning": {"summary": "auto", "effort": "low"}}),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
        (
            {
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
                "verbosity": "low",
            },
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "low"}},
        ),
        ({"tools": [{"type": "function", "function": FUNCTION}, {"type": "web_search"}]},
         {"tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}]}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}},
         {"tool_choice": {"type": "function", "name": "f"}}),
        ({"logprobs": True, "top_logprobs": 2}, {"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
        ({"store": False}, {"store": False}),
    ],
)  # fmt: skip
def test_parameters_of_chat_have_their_names_here(params: dict[str, Any], expected: dict[str, object]) -> None:
    assert rendered(**params) == {"input": "Hi", **expected}


def test_a_parameter_that_the_api_lacks_is_refused() -> None:
    """An answer without it would be another one than was asked for."""
    prompt = Prompt("Hi", None, (), {"seed": 1})

    assert RESPONSES.unsupported_in(prompt) == 'the Responses API has no parameter like "seed": take it out'
    with pytest.raises(UnsupportedError):
        RESPONSES.render(prompt)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://api.openai.com/v1/responses", "openai-responses"),
        ("https://api.openai.com/v1/responses/", "openai-responses"),
        ("https://api.openai.com/v1", "openai"),
        ("https://r.openai.azure.com/openai/v1/responses", "azure"),
    ],
)
def test_an_endpoint_whose_url_ends_in_responses_speaks_it(url: str, kind: str) -> None:
    provider = provider_of(EndpointSettings(url=url))

    assert provider.kind == kind
    if kind == "openai-responses":
        assert provider.base_url(url) == "https://api.openai.com/v1"


REPLY: dict[str, object] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "m-2",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "42", "annotations": []}],
        },
    ],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 12,
    },
}


def request(kind: str, path: str, content: Prompt | RawBody | None) -> Request:
    return Request(1, "k", b"", 1, path=path, body=b"{}", kind=kind, content=content)


@pytest.mark.parametrize(
    "asked",
    [
        request("openai-responses", "responses", None),
        request("openai", "chat/completions", Prompt("", None, (), {})),
        request("anthropic", "v1/messages", Prompt("", None, (), {})),
        request("openai", "responses", RawBody("openai.responses")),
    ],
)
def test_a_reply_is_read_whichever_kind_the_line_was_first_written_for(asked: Request) -> None:
    answer = RESPONSES.read_answer(asked, Reply(200, body=orjson.dumps(REPLY)))

    assert isinstance(answer, Answer)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("42", 7, 5)
    assert Response.model_validate(REPLY, strict=True).output_text == answer.text


def test_chat_completions_are_read_where_the_line_was_first_written_for_responses() -> None:
    body = b'{"choices":[{"message":{"role":"assistant","content":"42"},"finish_reason":"stop"}]}'
    asked = request("openai-responses", "responses", Prompt("", None, (), {}))

    answer = PROVIDERS["openai"].read_answer(asked, Reply(200, body=body))

    assert isinstance(answer, Answer)
    assert (answer.text, answer.says_more) == ("42", False)
