"""Endpoint channels: start what a run talks to, and open a channel to each endpoint."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from math import inf

from llmblast.endpoint_settings import EndpointSettings
from llmblast.hiding import secrets_in_query
from llmblast.job.redacting_channel import RedactingChannel, secrets_of
from llmblast.providers import providers_of
from llmblast.sending import NO_PROXY, TRANSPORTS, Channel, EndpointKey, make_target
from llmblast.settings import Settings

PREOPENED_S = 0.1
"""Connections for the requests of so many seconds are opened before the first request."""
MAX_PREOPENED = 1000


async def start_mocks(endpoints: Sequence[EndpointSettings], stack: AsyncExitStack) -> Sequence[EndpointSettings]:
    """Start the built-in provider for every `mock:` endpoint, and return the endpoints with its URL."""
    if not any(endpoint.is_mock for endpoint in endpoints):
        return endpoints
    from llmblast.mocking.server import MockServer  # noqa: PLC0415 -- a server that real runs do not need
    from llmblast.mocking.settings import MockSettings  # noqa: PLC0415

    started = []
    for endpoint in endpoints:
        if not endpoint.is_mock:
            started.append(endpoint)
            continue
        mock_settings = MockSettings.from_query(endpoint.url.partition("?")[2])
        server = await stack.enter_async_context(MockServer(mock_settings))
        started.append(replace(endpoint, url=server.url, proxy=NO_PROXY))
    return started


def open_channels(
    settings: Settings,
    endpoints: Sequence[EndpointSettings],
    keys: Sequence[EndpointKey],
    environ: Mapping[str, str],
    stack: AsyncExitStack,
) -> Sequence[Channel]:
    """Open a channel to each endpoint, which `stack` closes. Raise UsageError for an unusable setting."""
    open_channel = TRANSPORTS[settings.transport]
    channels: list[Channel] = []
    providers = providers_of(settings.endpoints, settings.model)
    for index, (own, endpoint, key, provider) in enumerate(
        zip(settings.endpoints, endpoints, keys, providers, strict=True)
    ):
        target = make_target(endpoint, settings.model, key.value, provider, environ, is_mock=own.is_mock)
        target = replace(target, flex_bit=1 << index)
        channel = open_channel(target, settings.timeout, settings.connect_timeout)
        stack.push_async_callback(channel.close)
        others = (*(target.proxy.secrets if target.proxy else ()), *secrets_in_query(endpoint.url))
        if target.signer is not None:
            others = (*others, *target.signer.secrets)
        secrets = secrets_of(key.value, endpoint.headers, others)
        if secrets or key.can_refresh:
            channel = redacting = RedactingChannel(channel, secrets)
            if target.signer is not None:
                target.signer.on_renewal(redacting.hide)
        channels.append(channel)
    return channels


def connections_ahead(settings: Settings, endpoint: EndpointSettings) -> int:
    """Return how many connections to open before the first request: those of the first moments at the set rate."""
    per_s = min(settings.requests_per_s, endpoint.requests_per_s)
    in_flight = min(settings.concurrency, endpoint.concurrency or settings.concurrency)
    return 1 if per_s == inf else max(1, min(round(per_s * PREOPENED_S), in_flight, MAX_PREOPENED))


def secrets_in(channels: Sequence[Channel]) -> Iterator[bytes]:
    """Yield the present secrets of all channels."""
    for channel in channels:
        if isinstance(channel, RedactingChannel):
            yield from channel.secrets
