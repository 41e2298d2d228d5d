"""Well-known hosts: a name stands for base URL, API and variable of the key."""

from pathlib import Path

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.known_hosts import KNOWN_HOSTS
from llmblast.providers import provider_of
from llmblast.setting_loading import load


def endpoints(*urls: str, **environ: str) -> tuple[EndpointSettings, ...]:
    return load({"endpoints": list(urls)}, None, environ).endpoints


def test_a_name_with_a_colon_stands_for_a_host() -> None:
    """Two endpoints of one host have two names."""
    first, second = endpoints("groq:,model=a,rps=5", "groq:,model=b,key_env=OTHER")

    assert (first.url, first.name, first.key_env) == ("https://api.groq.com/openai/v1", "groq", "GROQ_API_KEY")
    assert (first.model, first.rps) == ("a", 5)
    assert (second.name, second.key_env) == ("groq-2", "OTHER")


def test_a_name_without_a_url_stands_for_a_host_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[[endpoints]]\nname = "mistral"\n[[endpoints]]\nname = "groq"\nurl = "https://gateway.example/v1"\n'
    )

    mistral, gateway = load({}, str(path), {}).endpoints

    assert (mistral.url, mistral.key_env) == ("https://api.mistral.ai/v1", "MISTRAL_API_KEY")
    assert (gateway.url, gateway.key_env) == ("https://gateway.example/v1", None)


def test_a_whole_url_of_a_known_host_gets_its_variable_where_that_is_set() -> None:
    url = "https://api.groq.com/openai/v1"

    assert endpoints(url)[0].key_env is None
    assert endpoints(url, GROQ_API_KEY="k")[0].key_env == "GROQ_API_KEY"
    assert endpoints(f"{url},key_file=f", GROQ_API_KEY="k")[0].key_env is None
    assert endpoints("http://api.groq.com/openai/v1", GROQ_API_KEY="k")[0].key_env is None


@pytest.mark.parametrize(("name", "kind"), [("gemini", "gemini"), ("gemini-openai", "openai"), ("groq", "openai"),
                                            ("anthropic", "anthropic"), ("openai-responses", "openai-responses"),
                                            ("perplexity", "openai")])  # fmt: skip
def test_a_host_has_its_api(name: str, kind: str) -> None:
    assert provider_of(endpoints(f"{name}:")[0]).kind == kind


@pytest.mark.parametrize("name", sorted(KNOWN_HOSTS))
def test_every_host_of_the_table_is_a_valid_endpoint(name: str) -> None:
    host = KNOWN_HOSTS[name]
    (endpoint,) = endpoints(f"{name}:")
    provider = provider_of(endpoint)

    assert endpoint.name == name
    assert host.url.startswith("https://") or name in ("ollama", "lmstudio")
    assert provider.base_url(endpoint.url).rstrip("/") == host.url.removesuffix("/chat/completions").removesuffix(
        "/v2/rerank"
    )


def test_a_name_that_there_is_not_suggests_one() -> None:
    with pytest.raises(UsageError, match="endpoint 'grok:': not a URL, and no known host; did you mean groq:"):
        endpoints("grok:")
