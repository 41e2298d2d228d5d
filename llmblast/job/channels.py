"""Channels from settings, for whichever process sends."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from llmblast.job.redacting import Redacting, secrets_of
from llmblast.sending import TRANSPORTS, Channel, find_key, make_target
from llmblast.settings import EndpointSettings, Settings


def find_keys(settings: Settings, environ: Mapping[str, str]) -> Sequence[str | None]:
    """Each endpoint's key. Raises UsageError where one is named and not there."""
    return [find_key(endpoint, environ) for endpoint in settings.endpoints]


def open_channels(
    settings: Settings, endpoints: Sequence[EndpointSettings], keys: Sequence[str | None], stack: AsyncExitStack
) -> Sequence[Channel]:
    """A channel to each endpoint, which the stack closes. On the running loop.

    Raises UsageError for headers that HTTP cannot carry.
    """
    open_channel = TRANSPORTS[settings.transport]
    channels: list[Channel] = []
    for endpoint, key in zip(endpoints, keys, strict=True):
        target = make_target(endpoint, settings.model, key)
        channel = open_channel(target, settings.timeout, settings.connect_timeout)
        stack.push_async_callback(channel.close)
        secrets = secrets_of(key, endpoint.headers)
        channels.append(Redacting(channel, secrets) if secrets else channel)
    return channels
