"""Renews API keys during a run."""

from collections.abc import Awaitable, Callable

from llmblast.sending import Channel, EndpointKey


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
