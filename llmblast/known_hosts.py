"""Well-known hosts: base URL, API and variable of the key, by a short name such as `groq`.

`--url groq:` and `name = "groq"` without a URL stand for a host. A host whose whole URL is given gets its variable,
too, where that is set.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from llmblast.hiding import may_hold_key
from llmblast.urls import host_of

_SHORT: Final = re.compile(r"([a-z][a-z0-9-]*):")
_KEYS: Final = ("key_env", "key_file", "key_command")


class Host(NamedTuple):
    """A host. `kind` is empty where the URL shows the API, `key_env` where the provider knows the variable."""

    url: str
    key_env: str = ""
    kind: str = ""


KNOWN_HOSTS: Final[Mapping[str, Host]] = {
    "anthropic": Host("https://api.anthropic.com/v1"),
    "cerebras": Host("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "cohere": Host("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    "cohere-rerank": Host("https://api.cohere.com/v2/rerank", "COHERE_API_KEY"),
    "dashscope": Host("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepinfra": Host("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": Host("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks": Host("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": Host("https://generativelanguage.googleapis.com/v1beta", kind="gemini"),
    "gemini-openai": Host("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "openai"),
    "groq": Host("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "huggingface": Host("https://router.huggingface.co/v1", "HF_TOKEN"),
    "hyperbolic": Host("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "jina": Host("https://api.jina.ai/v1", "JINA_API_KEY"),
    "lmstudio": Host("http://localhost:1234/v1"),
    "mistral": Host("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": Host("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nebius": Host("https://api.tokenfactory.nebius.com/v1", "NEBIUS_API_KEY"),
    "novita": Host("https://api.novita.ai/openai/v1", "NOVITA_API_KEY"),
    "nvidia": Host("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    "ollama": Host("http://localhost:11434/v1"),
    "openai": Host("https://api.openai.com/v1"),
    "openai-responses": Host("https://api.openai.com/v1", kind="openai-responses"),
    "openrouter": Host("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": Host("https://api.perplexity.ai/chat/completions", "PERPLEXITY_API_KEY"),
    "sambanova": Host("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together": Host("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "voyage": Host("https://api.voyageai.com/v1", "VOYAGE_API_KEY"),
    "xai": Host("https://api.x.ai/v1", "XAI_API_KEY"),
}
"""By their short names; the pages of each provider name its base URL and, in their examples, the variable."""
_NAME_OF_HOST: Final = {urlsplit(host.url).hostname: name for name, host in KNOWN_HOSTS.items() if host.key_env}


def short_name_of(url: str) -> str | None:
    """Return the name in a URL that is a short name with a colon, whether it is known or not."""
    found = _SHORT.fullmatch(url.strip())
    return found[1] if found else None


def with_known_host(endpoint: Mapping[str, Any], environ: Mapping[str, str], taken: Collection[str]) -> dict[str, Any]:
    """Return the settings of an endpoint with those that its host implies. `taken` are names of other endpoints."""
    url, name = endpoint.get("url"), endpoint.get("name")
    if url is None and isinstance(name, str) and name in KNOWN_HOSTS:
        return _completed(endpoint, name, name)
    short = short_name_of(url) if isinstance(url, str) else None
    if short is not None and short in KNOWN_HOSTS:
        return _completed(endpoint, short, name or _free_name(short, taken))
    known = _NAME_OF_HOST.get(host_of(url)) if isinstance(url, str) and url.startswith("https://") else None
    if known is not None and environ.get(KNOWN_HOSTS[known].key_env) and not _has_key(endpoint):
        return {**endpoint, "key_env": KNOWN_HOSTS[known].key_env}
    return dict(endpoint)


def _completed(endpoint: Mapping[str, Any], short: str, name: object) -> dict[str, Any]:
    host = KNOWN_HOSTS[short]
    completed = {**endpoint, "url": host.url, "name": name}
    if host.kind and not endpoint.get("kind"):
        completed["kind"] = host.kind
    if host.key_env and not _has_key(endpoint):
        completed["key_env"] = host.key_env
    return completed


def _has_key(endpoint: Mapping[str, Any]) -> bool:
    headers = endpoint.get("headers")
    in_headers = isinstance(headers, Mapping) and any(may_hold_key(str(header)) for header in headers)
    return in_headers or any(endpoint.get(name) for name in _KEYS)


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, numbered where another endpoint has it."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
