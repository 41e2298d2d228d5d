"""Redacting: takes our credentials out of replies that repeat them, before these become messages and records.

Some gateways answer a wrong key with the key (LiteLLM: `Received API Key = sk-...`); what would go from there into
errors.jsonl, a log or a bug report is a secret. Answers are left alone: a key such as `password`, which local servers
like, may well be a word of theirs. A key that was replaced stays hidden: a late reply may still repeat it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from llmblast.hiding import may_hold_key
from llmblast.records import Reply, Request
from llmblast.sending import Channel, Leave

HIDDEN = b"(hidden)"
_SHORTEST = 8
"""Characters from which on a credential is taken for one: `EMPTY` and `x` are none."""
MAX_REPLACED_KEYS = 1000
"""More than can be replaced while one request is under way: one a second for the default timeout of 600 s."""


def secrets_of(key: str | None, headers: Mapping[str, str], others: Iterable[str] = ()) -> list[bytes]:
    """The endpoint's key, what its own headers have of one, and other secrets, longest first."""
    telling = (value for name, value in headers.items() if may_hold_key(name))
    words = {word for text in (key or "", *telling) for word in text.split()} | set(others)
    return sorted((word.encode() for word in words if len(word) >= _SHORTEST), key=len, reverse=True)


class Redacting:
    """A channel like the one that it is given, but for the secrets in replies that are no answers."""

    def __init__(self, channel: Channel, secrets: Iterable[bytes]) -> None:
        self._channel = channel
        self._first_secrets = tuple(secrets)
        self._later_keys: deque[bytes] = deque(maxlen=MAX_REPLACED_KEYS)
        self._secrets = self._first_secrets
        self.warm_up = channel.warm_up
        self.sweep = channel.sweep
        self.close = channel.close
        self.start = channel.start
        self.abandon = channel.abandon
        self._on_reply = channel.on_reply

    @property
    def leave(self) -> Leave:
        """The channel's own."""
        return self._channel.leave

    @leave.setter
    def leave(self, call: Leave) -> None:
        self._channel.leave = call

    @property
    def is_busy(self) -> bool:
        """As the channel says."""
        return self._channel.is_busy

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Return the secrets that must not be shown."""
        return self._secrets

    @property
    def on_late(self) -> Callable[[Request, bool], None]:
        """The channel's own."""
        return self._channel.on_late

    @on_late.setter
    def on_late(self, call: Callable[[Request, bool], None]) -> None:
        self._channel.on_late = call

    @property
    def on_reply(self) -> Callable[[Request, Reply], None]:
        """Gets replies without secrets."""
        return self._on_reply

    @on_reply.setter
    def on_reply(self, call: Callable[[Request, Reply], None]) -> None:
        self._on_reply = call
        self._channel.on_reply = lambda request, reply: call(request, self._redact(reply))

    def set_key(self, key: str) -> None:
        """Hide this key, too, and the keys before it, then send later requests with it."""
        for secret in secrets_of(key, {}):
            if secret not in self._secrets:
                self._later_keys.append(secret)
                self._secrets = tuple(sorted((*self._first_secrets, *self._later_keys), key=len, reverse=True))
        self._channel.set_key(key)

    async def send(self, request: Request) -> Reply:
        """The channel's reply, without secrets."""
        return self._redact(await self._channel.send(request))

    def _redact(self, reply: Reply) -> Reply:
        """Costs an answer 0.3 us, most of it for looking through the body, however many keys there were."""
        if reply.status != 200 or b'"error"' in reply.body:
            for secret in self._secrets:
                reply.body = reply.body.replace(secret, HIDDEN)
        return reply
