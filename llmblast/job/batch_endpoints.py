"""Batch endpoints: which endpoints have a batch API, and how their clients reach it: as requests do."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from llmblast.batching import BATCH_APIS
from llmblast.batching.api import Access, BatchApi
from llmblast.endpoint_settings import EndpointSettings
from llmblast.job.deferred_ways import prices_of_ways
from llmblast.job.key_refresh import renew_key
from llmblast.job.redacting_channel import RedactingChannel
from llmblast.models import Request
from llmblast.providers import providers_of
from llmblast.sending import Channel, EndpointKey, Target, make_target
from llmblast.sending.resolving import headers_for_proxy, new_tcp_connector
from llmblast.settings import Settings


@dataclass(frozen=True, slots=True)
class BatchGroup:
    """The API path and group that all lines of one batch share."""

    path: str
    name: str
    """The name that the API's `group_of` returns for these lines: the model, for example."""


@dataclass(slots=True, eq=False)
class BatchEndpoint:
    """An endpoint with a batch API. `takes_lines` says whether the run may start batches there."""

    index: int
    name: str
    weight: float
    api: BatchApi
    target: Target
    takes_lines: bool
    is_mock: bool
    """It is the built-in mock, inside this run."""
    lines: int = 0
    """Lines that were packed for it."""

    @property
    def bit(self) -> int:
        """Return the bit of the endpoint in sets of endpoints."""
        return 1 << self.index

    def model_of(self, request: Request) -> str | None:
        """Return the model that a request gets here."""
        return request.model or self.target.model or None

    def group_of(self, request: Request) -> BatchGroup | None:
        """Return the group of a request; None where it cannot go by batch here."""
        if request.closed_to & self.bit or request.headers:
            return None
        path = self.target.rendering_of(request).path
        name = self.api.group_of(path, self.model_of(request))
        return None if name is None else BatchGroup(path, name)

    def render(self, request: Request, custom_id: str) -> bytes:
        """Return the line of a request in the file that is uploaded."""
        rendering = self.target.rendering_of(request)
        body = self.target.body_of(rendering)
        return self.api.render_line(custom_id, rendering.path, body, self.model_of(request))


def open_batch_endpoints(
    settings: Settings,
    started: Sequence[EndpointSettings],
    *,
    keys: Sequence[EndpointKey],
    channels: Sequence[Channel],
    environ: Mapping[str, str],
    stack: AsyncExitStack,
) -> list[BatchEndpoint]:
    """Return the endpoints that have a batch API, with a client each, which `stack` closes.

    `started` are the endpoints with the URLs of mocks that were started. Raises UsageError for an unusable setting.
    """
    endpoints = []
    providers = providers_of(settings.endpoints, settings.model)
    for index, (own, endpoint, key, provider) in enumerate(
        zip(settings.endpoints, started, keys, providers, strict=True)
    ):
        new_api = BATCH_APIS.get(provider.kind)
        if new_api is None:
            continue
        target = make_target(endpoint, settings.model, key.value, provider, environ, is_mock=own.is_mock)
        channel = channels[index]
        hide = channel.hide_bytes if isinstance(channel, RedactingChannel) else bytes
        renew = partial(renew_key, key, channel) if key.can_refresh else None
        api = new_api(replace(_access(target, key, hide), renew_key=renew))
        stack.push_async_callback(api.close)
        takes_lines = "batch" in prices_of_ways(settings, own, provider) and own.name != settings.escalate
        endpoints.append(BatchEndpoint(index, own.name, own.weight, api, target, takes_lines, own.is_mock))
    return endpoints


def _access(target: Target, key: EndpointKey, hide: Callable[[bytes], bytes]) -> Access:
    proxy = target.proxy
    is_special = target.unix_socket is not None or (proxy is not None and proxy.is_socks)
    return Access(
        target.name,
        target.base,
        partial(_headers, target, key),
        proxy_url=None if proxy is None or proxy.is_socks else proxy.url,
        proxy_headers=headers_for_proxy(proxy),
        tls=target.tls,
        new_connector=partial(new_tcp_connector, proxy=proxy, tls=target.tls, unix_socket=target.unix_socket)
        if is_special
        else None,
        hide=hide,
    )


def _headers(target: Target, key: EndpointKey) -> Mapping[str, str]:
    """Return the headers with the present key."""
    return target.headers if key.value is None else target.with_key(key.value).headers
