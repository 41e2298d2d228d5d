"""Vertex AI and Azure OpenAI: their URLs, keys and bodies, and what Azure adds to OpenAI's replies."""

from typing import Any

import orjson
import pytest

from llmblast import sending
from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Answer, Attempt, Prompt, Reply, Request
from llmblast.providers import PROVIDERS
from llmblast.providers.azure import Azure
from llmblast.providers.vertex import Vertex, VertexAnthropic
from llmblast.sending import Action, Blame, Verdict, make_target

PLACE = "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1"
AZURE = "https://r.openai.azure.com"
JWT = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"


def url_sent_to(url: str, kind: str, model: str | None = "m") -> str:
    provider = PROVIDERS[kind]
    target = make_target(EndpointSettings(url=url, name="e"), model, "a-key", provider)
    path, _ = provider.render(Prompt("Why?", None, (), {}))
    return target.url_of(path)


@pytest.mark.parametrize(
    ("url", "model", "sent"),
    [
        (PLACE, "m", f"{PLACE}/publishers/google/models/m:generateContent"),
        (f"{PLACE}/", "publishers/meta/models/llama", f"{PLACE}/publishers/meta/models/llama:generateContent"),
        (
            f"{PLACE}/publishers/google/models/named:generateContent",
            "m",
            f"{PLACE}/publishers/google/models/named:generateContent",
        ),
        (
            "https://aiplatform.googleapis.com",
            "m",
            "https://aiplatform.googleapis.com/v1/publishers/google/models/m:generateContent",
        ),
    ],
)
def test_vertex_urls_have_project_and_location(url: str, model: str, sent: str) -> None:
    assert url_sent_to(url, "vertex", model) == sent


def test_vertex_has_tokens_and_in_express_mode_keys() -> None:
    provider = Vertex()

    assert provider.auth_header(PLACE, "ya29.a-token") == ("Authorization", "Bearer ya29.a-token")
    assert provider.auth_header(PLACE, "AIzaSy") == ("x-goog-api-key", "AIzaSy")
    assert provider.auth_header(PLACE, "AQ.Ab8") == ("x-goog-api-key", "AQ.Ab8")


def test_claude_at_vertex_names_the_version_in_the_body_and_the_model_in_the_url() -> None:
    provider = VertexAnthropic()
    target = make_target(EndpointSettings(url=PLACE, name="e"), "claude-x@1", "a-key", provider)
    path, body = provider.render(Prompt("Why?", "Be brief.", (), {}))
    request = Request(1, "k", b"", 1, path=path, body=body, kind=provider.kind, needs_model=True)

    sent: dict[str, Any] = orjson.loads(target.body_of(request))

    assert target.url_of(path) == f"{PLACE}/publishers/anthropic/models/claude-x@1:rawPredict"
    assert (sent["anthropic_version"], sent["system"], "model" in sent) == ("vertex-2023-10-16", "Be brief.", False)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (AZURE, f"{AZURE}/openai/v1/chat/completions"),
        (f"{AZURE}/openai/v1/", f"{AZURE}/openai/v1/chat/completions"),
        (f"{AZURE}/openai/v1?api-version=preview", f"{AZURE}/openai/v1/chat/completions?api-version=preview"),
        (
            f"{AZURE}/openai/deployments/d/chat/completions?api-version=2024-10-21",
            f"{AZURE}/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        (
            f"{AZURE}/openai/deployments/d?api-version=2024-10-21",
            f"{AZURE}/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        (
            f"{AZURE}/openai?api-version=2025-04-01-preview",
            f"{AZURE}/openai/deployments/m/chat/completions?api-version=2025-04-01-preview",
        ),
        (f"{AZURE}?api-version=2024-10-21", f"{AZURE}/openai/deployments/m/chat/completions?api-version=2024-10-21"),
        ("https://r.services.ai.azure.com/openai", "https://r.services.ai.azure.com/openai/v1/chat/completions"),
        (
            "https://r.services.ai.azure.com/models?api-version=2024-05-01-preview",
            "https://r.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
    ],
)
def test_azure_urls_of_all_forms(url: str, sent: str) -> None:
    assert url_sent_to(url, "azure") == sent


def test_a_deployment_that_nobody_named_is_missing() -> None:
    with pytest.raises(UsageError, match=r"endpoint e: the model is missing, .* add model=NAME"):
        url_sent_to(f"{AZURE}?api-version=2024-10-21", "azure", None)


def test_azure_keys_and_tokens_have_their_headers_behind_a_gateway_too() -> None:
    provider = Azure()

    assert provider.auth_header("https://gw.example/openai/deployments/d", "0123abc") == ("api-key", "0123abc")
    assert provider.auth_header(AZURE, JWT) == ("Authorization", f"Bearer {JWT}")


def judge(status: int, body: object, *headers: tuple[bytes, bytes]) -> Answer | Verdict:
    request = Request(1, "k", b"", 1, path="chat/completions", kind="azure")
    return sending.judge(Attempt(request), Reply(status, dict(headers), orjson.dumps(body)), 1.8e9, Azure())


def test_azures_filter_of_prompts_is_the_lines_fault() -> None:
    """With all that Azure says of it."""
    inner = {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
    }
    message = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
    error = {"message": message, "type": None, "param": "prompt", "code": "content_filter", "innererror": inner}

    verdict = judge(400, {"error": {**error, "status": 400}})

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.blame, verdict.code) == (Action.REFUSED, Blame.LINE, "content_filter")


def test_azures_filter_of_answers_is_flagged() -> None:
    """The choice has no text, or a part of one; its results of the filter alone are no reason to keep the body."""
    results = {"hate": {"filtered": False, "severity": "safe"}}
    usage = {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
    message = {"role": "assistant", "content": "Blue"}

    cut = judge(
        200, {"choices": [{"finish_reason": "content_filter", "message": {"role": "assistant"}}], "usage": usage}
    )
    plain = judge(
        200,
        {
            "choices": [{"finish_reason": "stop", "message": message, "content_filter_results": results}],
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": results}],
            "usage": usage,
        },
    )

    assert isinstance(cut, Answer)
    assert (cut.text, cut.finish_reason) == (None, "content_filter")
    assert isinstance(plain, Answer)
    assert (plain.text, plain.says_more) == ("Blue", False)


def test_azures_waits_are_those_of_its_headers() -> None:
    """To the millisecond, before those of its words."""
    body = {"error": {"code": "429", "message": "Requests have exceeded the limit. Please retry after 20 seconds."}}

    told = judge(429, body, (b"retry-after-ms", b"1500"), (b"retry-after", b"2"))
    worded = judge(429, body)

    assert isinstance(told, Verdict)
    assert isinstance(worded, Verdict)
    assert (told.action, told.wait_s, worded.wait_s) == (Action.PUSH_BACK, 1.5, 20.0)


def test_azures_rate_limit_headers_are_read() -> None:
    headers = [
        (b"x-ratelimit-limit-requests", b"100"),
        (b"x-ratelimit-remaining-requests", b"99"),
        (b"x-ratelimit-limit-tokens", b"100000"),
        (b"x-ratelimit-remaining-tokens", b"99000"),
        (b"x-ms-region", b"East US"),
    ]

    limits = {limit.kind: (limit.limit, limit.remaining) for limit in Azure().read_limits(headers, 1.8e9)}

    assert limits == {"requests": (100, 99), "tokens": (100_000, 99_000)}
