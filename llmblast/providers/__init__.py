"""Providers: one file an API. How a request is written, and what a reply, an error and a rate-limit header mean.

A new provider is one class in one file and one line in `PROVIDERS`. The contract is `records.Provider`.
"""

from collections.abc import Sequence

from llmblast.errors import UsageError
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.finish_reasons import is_flagged
from llmblast.providers.openai import OpenAI
from llmblast.records import Provider
from llmblast.settings import EndpointSettings
from llmblast.urls import host_of

__all__ = ["DEFAULT_PROVIDER", "PROVIDERS", "is_flagged", "provider_of", "provider_of_key", "providers_of"]

DEFAULT_PROVIDER: Provider = OpenAI()
PROVIDERS: dict[str, Provider] = {provider.kind: provider for provider in (DEFAULT_PROVIDER, Anthropic())}
"""By the name that the setting `kind` of an endpoint knows."""


def providers_of(endpoints: Sequence[EndpointSettings]) -> Sequence[Provider]:
    """Return the provider of each endpoint. Raises UsageError for a `kind` that there is not."""
    return [provider_of(endpoint) for endpoint in endpoints]


def provider_of(endpoint: EndpointSettings) -> Provider:
    """Return the provider that the setting `kind` names, else the one that the URL shows: its path, then its host.

    Raises UsageError for a `kind` that there is not.
    """
    if endpoint.kind is not None:
        provider = PROVIDERS.get(endpoint.kind)
        if provider is None:
            known = " or ".join(PROVIDERS)
            raise UsageError(f"endpoint {endpoint.name}: kind {endpoint.kind!r} is not known: write {known}")
        return provider
    if endpoint.is_mock:
        return DEFAULT_PROVIDER
    by_path = (provider for provider in PROVIDERS.values() if provider.names_path(endpoint.url))
    return next(by_path, None) or _owner_of(endpoint.url) or DEFAULT_PROVIDER


def provider_of_key(endpoint: EndpointSettings) -> Provider:
    """Return the provider whose default key the endpoint gets: that of its host, whatever API it speaks there."""
    return _owner_of(endpoint.url) or provider_of(endpoint)


def _owner_of(url: str) -> Provider | None:
    host = host_of(url)
    return next((provider for provider in PROVIDERS.values() if host in provider.hosts), None)
