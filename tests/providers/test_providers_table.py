"""Which provider an endpoint has, and whose key it gets."""

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import RawBody, Reply, ReplyError, Request
from llmblast.providers import PROVIDERS, provider_of, provider_of_key


@pytest.mark.parametrize(
    ("url", "kind", "speaks", "key"),
    [
        ("http://127.0.0.1:8000/v1", None, "openai", "openai"),
        ("https://api.anthropic.com", None, "anthropic", "anthropic"),
        ("https://api.anthropic.com/v1", None, "anthropic", "anthropic"),
        ("https://api.anthropic.com/v1/chat/completions", None, "openai", "anthropic"),
        ("https://api.anthropic.com/v1", "openai", "openai", "anthropic"),
        ("https://gateway.example/v1/messages", None, "anthropic", "anthropic"),
        ("https://gateway.example/v1/messages/?beta=true", None, "anthropic", "anthropic"),
        ("https://gateway.example/anthropic", "anthropic", "anthropic", "anthropic"),
        ("https://api.openai.com/v1", "anthropic", "anthropic", "openai"),
        ("https://r.openai.azure.com", None, "azure", "azure"),
        ("https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=1", None, "azure", "azure"),
        ("https://r.openai.azure.com/openai/v1", "openai", "openai", "openai"),
        ("https://r.services.ai.azure.com/anthropic/v1/messages", None, "anthropic", "anthropic"),
        ("https://generativelanguage.googleapis.com", None, "gemini", "gemini"),
        ("https://generativelanguage.googleapis.com/v1beta", None, "gemini", "gemini"),
        ("https://generativelanguage.googleapis.com/v1beta/models/m:generateContent", None, "gemini", "gemini"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", None, "openai", "gemini"),
        ("https://gw.example/v1beta/models/m:generateContent?x=1", None, "gemini", "gemini"),
        ("https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/l", None, "vertex", "vertex"),
        ("https://aiplatform.googleapis.com", None, "vertex", "vertex"),
        ("https://gw.example/v1/publishers/google/models/m:generateContent", None, "vertex", "vertex"),
        (
            "https://gw.example/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict",
            None,
            "vertex-anthropic",
            "vertex-anthropic",
        ),
        (
            "https://l-aiplatform.googleapis.com/v1/projects/p/locations/l/endpoints/openapi",
            None,
            "openai",
            "openai",
        ),
        ("https://bedrock-runtime.us-east-1.amazonaws.com", None, "bedrock", "bedrock"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1", None, "openai", "openai"),
        ("https://aiplatform.googleapis.com.evil.example", None, "openai", "openai"),
        ("mock:?rps=5", None, "openai", "openai"),
        ("mock:", "anthropic", "anthropic", "anthropic"),
    ],
)
def test_an_endpoint_has_the_provider_that_its_settings_show(url: str, kind: str | None, speaks: str, key: str) -> None:
    """The setting goes first, then the path, then the host; the key is the host's, whatever is spoken there."""
    endpoint = EndpointSettings(url=url, kind=kind)

    assert provider_of(endpoint).kind == speaks
    assert provider_of_key(endpoint).kind == key


def test_a_kind_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="endpoint e: kind 'palm' is not known: write one of openai, anthropic"):
        provider_of(EndpointSettings(url="http://h/v1", name="e", kind="palm"))


def test_no_two_providers_share_a_key_or_a_host() -> None:
    """A key would go to the wrong one."""
    providers = [provider for provider in PROVIDERS.values() if provider.kind != "openai-responses"]  # also OpenAI

    assert len({provider.key_env for provider in providers}) == len(providers)
    assert len({host for provider in providers for host in provider.hosts}) == sum(len(p.hosts) for p in providers)


def test_a_body_that_another_kind_takes_first_is_read_as_its_dialect_says() -> None:
    """Its path is that of the other kind."""
    request = Request(
        1, "k", b"", 1, path="vectors", body=b'{"input":["a","b"]}', kind="toy", content=RawBody("openai.embeddings")
    )

    error = PROVIDERS["openai"].read_answer(request, Reply(200, body=b'{"data":[{"embedding":[1],"index":0}]}'))

    assert isinstance(error, ReplyError)
    assert error.code == "wrong_embeddings"
