"""Conversations and other models: a written request that asks again, or names another model, at each API."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from llmblast.endpoint_settings import CustomSettings, EndpointSettings
from llmblast.models import Prompt, Request
from llmblast.provider_contract import Provider
from llmblast.providers import PROVIDERS, provider_of
from llmblast.providers.conversations import ask_again, prompt_again
from llmblast.providers.other_models import reason_against_model, with_model
from llmblast.reading import RequestParser
from llmblast.sending.target import make_target
from llmblast.settings import Settings

REASON = "Your answer cannot be used: not JSON. Answer again, with a corrected answer and nothing else."
CUSTOM = CustomSettings(body={"ask": "{prompt}", "with": "{model}"}, text="/said")
URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "azure": "https://r.openai.azure.com",
    "azure deployments": "https://r.openai.azure.com/openai?api-version=2024-10-21",
    "bedrock": "https://bedrock-runtime.us-east-1.amazonaws.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "gemini in URL": "https://generativelanguage.googleapis.com/v1beta/models/small:generateContent",
    "openai-responses": "https://api.openai.com/v1/responses",
    "vertex": "https://aiplatform.googleapis.com/v1/projects/p/locations/global",
    "vertex-anthropic": "https://aiplatform.googleapis.com/v1/projects/p/locations/global",
    "custom": "https://h/v1/ask",
    "custom in URL": "https://h/v1/{model}/ask",
}
CHAT = {"messages": [{"role": "user", "content": "Why?"}]}
RAW: Mapping[str, dict[str, Any]] = {
    "bedrock": {"messages": [{"role": "user", "content": [{"text": "Why?"}]}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]},
    "vertex": {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]},
    "openai-responses": {"input": "Why?"},
}


def endpoint_of(name: str) -> EndpointSettings:
    kind = name.partition(" ")[0]
    return EndpointSettings(url=URLS[name], name="e", kind=kind, custom=CUSTOM if kind == "custom" else None)


def parsed(provider: Provider, line: dict[str, Any]) -> Request:
    settings = Settings(model="small", prompt="{q}" if "q" in line else None)
    request = RequestParser(settings, [provider]).parse(1, "0" * 16, orjson.dumps(line))
    assert isinstance(request, Request), request
    return request


def sent(name: str, provider: Provider, request: Request) -> str:
    """Return URL and body of a request at an endpoint whose own model is `small`."""
    target = make_target(endpoint_of(name), "small", "key", provider)
    rendering = target.rendering_of(request)
    body = target.body_of(rendering)
    assert body.count(b'"model"') <= 1
    return f"{target.url_of(rendering.path)} {body.decode()}"


def test_all_providers_are_here() -> None:
    assert {name.partition(" ")[0] for name in URLS} == {*PROVIDERS, "custom"}


@pytest.mark.parametrize("name", URLS)
def test_a_request_gets_another_model(name: str) -> None:
    """A simple line, a raw one, and one that names a model itself."""
    provider = provider_of(endpoint_of(name), "small")
    lines: list[dict[str, Any]] = [{"input": "Why?"}, {"q": "Why?", "model": "small"}]
    if provider.dialects:
        raw = RAW.get(provider.kind, CHAT)
        lines += [{**raw, "model": "small"}, raw if "input" not in raw else {**raw, "store": False}]

    for line in lines:
        request = parsed(provider, line)
        assert "small" in sent(name, provider, request)
        other = sent(name, provider, with_model(request, "large-x", provider))
        assert "large-x" in other
        assert "small" not in other
        assert "Why?" in other


@pytest.mark.parametrize("name", URLS)
def test_the_model_of_a_line_counts_more_than_that_of_the_endpoint(name: str) -> None:
    """Wherever the API has it."""
    provider = provider_of(endpoint_of(name), "small")
    lines: list[dict[str, Any]] = [{"q": "Why?", "model": "large-x"}]
    if provider.dialects and name != "azure deployments":
        lines.append({**RAW.get(provider.kind, CHAT), "model": "large-x"})

    for line in lines:
        asked = sent(name, provider, parsed(provider, line))
        assert "large-x" in asked
        assert "small" not in asked


def test_a_raw_line_with_a_model_goes_to_that_deployment() -> None:
    """Azure reads the URL only, so that the body may name it, too."""
    provider = PROVIDERS["azure"]
    request = parsed(provider, {**CHAT, "model": "large-x"})

    assert "/openai/deployments/large-x/chat/completions?" in sent("azure deployments", provider, request)


def test_claude_at_vertex_gets_the_version_for_raw_lines_with_a_model_too() -> None:
    provider = PROVIDERS["vertex-anthropic"]

    asked = sent("vertex-anthropic", provider, parsed(provider, {**CHAT, "max_tokens": 9, "model": "large-x"}))

    assert '"anthropic_version":"vertex-2023-10-16"' in asked


@pytest.mark.parametrize(
    ("url", "kind", "custom", "reason"),
    [
        (
            "https://r.openai.azure.com/openai/deployments/d?api-version=1",
            "azure",
            None,
            "its URL names the deployment",
        ),
        ("https://h/ask", "custom", CustomSettings(body={"q": "{prompt}"}, text="/a"), 'has no "{model}"'),
        ("https://r.openai.azure.com?api-version=2024-10-21", "azure", None, None),
        ("https://h/v1", "openai", None, None),
    ],
)
def test_some_endpoints_cannot_be_asked_for_a_model(
    url: str, kind: str, custom: CustomSettings | None, reason: str | None
) -> None:
    endpoint = EndpointSettings(url=url, name="e", kind=kind, custom=custom)

    found = reason_against_model("large", provider_of(endpoint, "small"), url)

    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize("name", URLS)
def test_asking_again_says_the_answer_and_the_reason(name: str) -> None:
    """Behind the words of the line, in turns where the API has them; the parameters stay."""
    provider = provider_of(endpoint_of(name), "small")
    prompt = Prompt("Why?", "S" if provider.dialects else None, (), {"temperature": 0.5} if provider.dialects else {})
    path, body = provider.render(prompt)

    if provider.dialects:
        again = ask_again(provider, path, body, "because", "not JSON.")
    else:
        again = provider.render(prompt_again(prompt, "because", "not JSON."))[1]

    before = {text for text in _texts(orjson.loads(body)) if text != "Why?"}
    texts = _texts(orjson.loads(again))
    assert before <= set(texts)
    said = " ".join(text for text in texts if text not in before)
    assert said.index("Why?") < said.index("because") < said.index(REASON)


@pytest.mark.parametrize("name", [name for name in URLS if not name.startswith("custom")])
@pytest.mark.parametrize("answer", ["", " \n", None])
def test_after_an_empty_answer_the_roles_alternate(name: str, answer: object) -> None:
    """No API takes an empty turn, and many servers want roles to alternate: the reason becomes part of the question."""
    provider = provider_of(endpoint_of(name), "small")
    path, body = provider.render(Prompt("Why?", None, (), {}))

    again = orjson.loads(ask_again(provider, path, body, answer, "not JSON"))

    turns = again.get("messages") or again.get("contents") or again["input"]
    assert REASON in " ".join(_texts(turns))
    if "input" not in again:
        assert len(turns) == 1


@pytest.mark.parametrize(
    ("kind", "path", "turns", "expected"),
    [
        (
            "openai",
            "chat/completions",
            [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "text", "text": REASON}]}],
        ),
        (
            "gemini",
            "models/m:generateContent",
            {"parts": [{"text": "Why?"}]},
            [{"role": "user", "parts": [{"text": "Why?"}, {"text": REASON}]}],
        ),
        ("openai", "chat/completions", [], [{"role": "user", "content": REASON}]),
        (
            "bedrock",
            "model/m/converse",
            [{"role": "user", "content": [{"text": "Why?"}]}],
            [{"role": "user", "content": [{"text": "Why?"}, {"text": REASON}]}],
        ),
    ],
)
def test_the_reason_is_added_to_parts(kind: str, path: str, turns: object, expected: object) -> None:
    name = "contents" if kind == "gemini" else "messages"

    again = orjson.loads(ask_again(PROVIDERS[kind], path, orjson.dumps({name: turns}), None, "not JSON"))

    assert again == {name: expected}


def test_an_answer_goes_on_after_the_start_that_the_line_gave_it() -> None:
    """A line may end with the first words of the answer."""
    body = orjson.dumps({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": '{"a":'}]})

    again = orjson.loads(ask_again(PROVIDERS["anthropic"], "v1/messages", body, " 1", "not JSON"))

    assert [turn["content"] for turn in again["messages"]] == ["Why?", '{"a": 1', REASON]


@pytest.mark.parametrize("given", ['"Why?"', '[{"role":"user","content":"Why?"}]'])
def test_asking_again_in_the_responses_api(given: str) -> None:
    """Its input is a text or a list."""
    provider = PROVIDERS["openai"]

    again = orjson.loads(ask_again(provider, "responses", b'{"input":%b}' % given.encode(), "because", "not JSON"))

    assert [item["role"] for item in again["input"]] == ["user", "assistant", "user"]
    assert again["input"][0]["content"] == "Why?"


def test_an_api_without_turns_gets_the_same_request() -> None:
    """Another draw may fit."""
    assert ask_again(PROVIDERS["openai"], "completions", b'{"prompt":"x"}', "y", "not JSON") == b'{"prompt":"x"}'


def _texts(value: object) -> list[str]:
    """Return all texts in a body, in their order."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]
