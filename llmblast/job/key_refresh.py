"""Key refresh: renew API keys during a run, at an interval and after a 401."""

from collections.abc import Awaitable, Callable, Sequence

from llmblast.models import Attempt
from llmblast.scheduling import Endpoint
from llmblast.sending import Channel, EndpointKey


class KeyRenewal:
    """Renews the key of an endpoint that rejects it. `keys` and `channels` are in the order of the endpoints."""

    def __init__(self, keys: Sequence[EndpointKey], channels: Sequence[Channel]) -> None:
        self._keys = keys
        self._channels = channels

    def is_worthwhile(self, attempt: Attempt, endpoint: Endpoint) -> bool:
        """Return whether a key that has worked may have expired, so that another send with a new one may succeed."""
        if not self._keys or attempt.key_renewed or not self._keys[endpoint.index].can_refresh:
            return False
        key_since_s = self._keys[endpoint.index].since_s
        return attempt.sent_s < key_since_s or endpoint.traffic.last_answered_sent_s >= key_since_s

    def had_present_key(self, attempt: Attempt, endpoint: Endpoint) -> bool:
        """Return whether a request was sent with the present key."""
        return attempt.sent_s >= self._keys[endpoint.index].since_s

    async def renew(self, endpoint: Endpoint) -> None:
        """Ask for the key of a paused endpoint again, and let the endpoint go on."""
        try:
            await renew_key(self._keys[endpoint.index], self._channels[endpoint.index])
        finally:
            endpoint.on_new_key()


async def renew_key(key: EndpointKey, channel: Channel) -> bool:
    """Ask for the key again and send later requests with it. Return whether a key was obtained, be it the same.

    A request sent at `key.since_s` or later carries the present key; one that was sent before may carry another.
    """
    if not await key.refresh():
        return False
    if key.value is not None:
        channel.set_key(key.value)
    return True


async def refresh_regularly(
    key: EndpointKey,
    channel: Channel,
    interval_s: float,
    sleep: Callable[[float], Awaitable[None]],
    notice: Callable[[str], None],
) -> None:
    """Renew the key every `interval_s` seconds until cancelled. Report the first of several failures in a row."""
    is_reported = False
    while True:
        await sleep(interval_s)
        is_renewed = await renew_key(key, channel)
        if not is_renewed and not is_reported:
            notice(f"{key.problem}; the present key stays in use, next try in {interval_s:g} s")
        is_reported = not is_renewed
