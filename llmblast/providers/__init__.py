"""Providers: write requests, read replies, errors and rate-limit headers of each API.

A new provider is one class and one line in `PROVIDERS`. The contract is `models.Provider`.
"""

from collections.abc import Sequence

from llmblast.errors import UsageError
from llmblast.models import Provider
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.finish_reasons import is_filtered, is_flagged
from llmblast.providers.openai import OpenAI
from llmblast.providers.seeds import seed_member
from llmblast.settings import EndpointSettings
from llmblast.urls import host_of

__all__ = [
    "DEFAULT_PROVIDER",
    "PROVIDERS",
    "is_filtered",
    "is_flagged",
    "provider_of",
    "provider_of_key",
    "providers_of",
    "seed_member",
]

DEFAULT_PROVIDER: Provider = OpenAI()
PROVIDERS: dict[str, Provider] = {provider.kind: provider for provider in (DEFAULT_PROVIDER, Anthropic())}
"""By the values of the setting `kind` of an endpoint."""


def providers_of(endpoints: Sequence[EndpointSettings]) -> Sequence[Provider]:
    """Return the provider of each endpoint. Raises UsageError for an unknown `kind`."""
    return [provider_of(endpoint) for endpoint in endpoints]


def provider_of(endpoint: EndpointSettings) -> Provider:
    """Return the provider that the setting `kind` names, else the provider by the path of the URL, then by its host.

    Raises UsageError for an unknown `kind`.
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
    """Return the provider whose default key the endpoint gets: the owner of its host, even if it speaks another API."""
    return _owner_of(endpoint.url) or provider_of(endpoint)


def _owner_of(url: str) -> Provider | None:
    host = host_of(url)
    return next((provider for provider in PROVIDERS.values() if host in provider.hosts), None)
