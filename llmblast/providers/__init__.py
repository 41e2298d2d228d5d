"""Providers: write requests, read replies, errors and rate-limit headers of each API.

A new provider is one class and one line in `PROVIDERS`, or in `MADE_PER_ENDPOINT` where the settings of the endpoint
shape it. The contract is `provider_contract.Provider`.
"""

from collections.abc import Callable, Mapping, Sequence

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.provider_contract import Provider
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.azure import Azure
from llmblast.providers.bedrock import Bedrock
from llmblast.providers.finish_reasons import is_filtered, is_flagged
from llmblast.providers.gemini import Gemini
from llmblast.providers.openai import OpenAI
from llmblast.providers.openai_responses import OpenAIResponses
from llmblast.providers.seeds import seed_place
from llmblast.providers.vertex import Vertex, VertexAnthropic
from llmblast.urls import host_of

__all__ = [
    "DEFAULT_PROVIDER",
    "PROVIDERS",
    "is_filtered",
    "is_flagged",
    "provider_of",
    "provider_of_key",
    "providers_of",
    "seed_place",
]

_CUSTOM = "custom"


def _make_custom(endpoint: EndpointSettings, model: str | None) -> Provider:
    from llmblast.providers.custom import Custom  # noqa: PLC0415 -- few endpoints need it

    return Custom(endpoint, model)


DEFAULT_PROVIDER: Provider = OpenAI()
PROVIDERS: dict[str, Provider] = {
    provider.kind: provider
    for provider in (
        DEFAULT_PROVIDER,
        Anthropic(),
        Azure(),
        Bedrock(),
        Gemini(),
        OpenAIResponses(),
        Vertex(),
        VertexAnthropic(),
    )
}
"""By the values of the setting `kind` of an endpoint."""
MADE_PER_ENDPOINT: Mapping[str, Callable[[EndpointSettings, str | None], Provider]] = {_CUSTOM: _make_custom}
"""Makers of providers that depend on an endpoint and the model of the run, by the values of `kind`."""


def providers_of(endpoints: Sequence[EndpointSettings], model: str | None = None) -> Sequence[Provider]:
    """Return the provider of each endpoint; `model` is the run's. Raises UsageError as `provider_of` does."""
    return [provider_of(endpoint, model) for endpoint in endpoints]


def provider_of(endpoint: EndpointSettings, model: str | None = None) -> Provider:
    """Return the provider that the setting `kind` names, else the first that knows the URL, then the host's owner.

    Raises UsageError for an unknown `kind`, and for an invalid description of a custom API.
    """
    if endpoint.custom is not None and endpoint.kind not in (None, _CUSTOM):
        raise UsageError(f"endpoint {endpoint.name}: custom describes an API of kind {_CUSTOM!r}: remove kind")
    kind = _CUSTOM if endpoint.custom is not None else endpoint.kind
    if kind is not None and kind in MADE_PER_ENDPOINT:
        return MADE_PER_ENDPOINT[kind](endpoint, model)
    if endpoint.kind is not None:
        provider = PROVIDERS.get(endpoint.kind)
        if provider is None:
            known = ", ".join((*PROVIDERS, *MADE_PER_ENDPOINT))
            raise UsageError(f"endpoint {endpoint.name}: kind {endpoint.kind!r} is not known: write one of {known}")
        return provider
    if endpoint.is_mock:
        return DEFAULT_PROVIDER
    by_path = (provider for provider in PROVIDERS.values() if provider.names_path(endpoint.url))
    return next(by_path, None) or _owner_of(endpoint.url) or DEFAULT_PROVIDER


def provider_of_key(endpoint: EndpointSettings, model: str | None = None) -> Provider:
    """Return the provider whose default key the endpoint gets: the owner of its host, even if it speaks another API."""
    return _owner_of(endpoint.url) or provider_of(endpoint, model)


def _owner_of(url: str) -> Provider | None:
    host = host_of(url)
    return next((provider for provider in PROVIDERS.values() if host in provider.hosts), None)
