"""Redacting: takes our credentials out of replies that repeat them, before these become messages and records.

Some gateways answer a wrong key with the key (LiteLLM: `Received API Key = sk-...`), some models repeat what stands in
their prompt; what would go from there into a file, a log or a bug report is a secret. In answers only what cannot be a
word is hidden: a key such as `password`, which local servers like, may well be one of theirs. A key that was replaced
stays hidden: a late reply may still repeat it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from llmblast.hiding import may_hold_key
from llmblast.job.secret_search import SecretSearch
from llmblast.records import Attempt, Reply
from llmblast.sending import NO_LISTENER, Channel, ChannelListener

_SHORTEST_PASSWORD = 4
_SHORTEST = 8
"""Characters from which on a credential is taken for one: `EMPTY` and `x` are none."""
MIN_STRONG_CHARS = 12
MAX_KEYS_IN_ANSWERS = 3
"""Of the keys that replaced others, so many are looked for in answers; errors are searched for all."""
MAX_REPLACED_KEYS = 1000
"""More than can be replaced while one request is under way: one a second for the default timeout of 600 s."""


def secrets_of(key: str | None, headers: Mapping[str, str], others: Iterable[str] = ()) -> list[bytes]:
    """The endpoint's key, what its own headers have of one, and other secrets, longest first."""
    telling = (value for name, value in headers.items() if may_hold_key(name))
    words = {word for text in (key or "", *telling) for word in text.split() if len(word) >= _SHORTEST}
    words.update(word for word in others if len(word) >= _SHORTEST_PASSWORD)
    return sorted((word.encode() for word in words), key=len, reverse=True)


class RedactingChannel:
    """A channel like the one that it is given, but for the secrets in its replies."""

    def __init__(self, channel: Channel, secrets: Iterable[bytes]) -> None:
        self._channel = channel
        self._first_secrets = tuple(secrets)
        self._later_keys: deque[bytes] = deque(maxlen=MAX_REPLACED_KEYS)
        self._secrets = self._first_secrets
        self.warm_up = channel.warm_up
        self.sweep = channel.sweep
        self.close = channel.close
        self.abandon = channel.abandon
        self._listeners = NO_LISTENER, NO_LISTENER
        """The caller's last listener, and the one in its place, which redacts replies."""
        self._prepare()

    @property
    def is_busy(self) -> bool:
        """As the channel says."""
        return self._channel.is_busy

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Return the secrets that must not be shown."""
        return self._secrets

    def set_key(self, key: str) -> None:
        """Hide this key, too, and the keys before it, then send later requests with it."""
        for secret in secrets_of(key, {}):
            if secret not in self._secrets:
                self._later_keys.append(secret)
                self._secrets = tuple(sorted((*self._first_secrets, *self._later_keys), key=len, reverse=True))
                self._prepare()
        self._channel.set_key(key)

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        """Start a request on the channel; the listener gets its reply without secrets."""
        if listener is not self._listeners[0]:
            on_reply = listener.on_reply
            redacting = replace(listener, on_reply=lambda attempt, reply: on_reply(attempt, self._redact(reply)))
            self._listeners = listener, redacting
        return self._channel.start(attempt, self._listeners[1])

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        """Return the channel's reply without secrets."""
        return self._redact(await self._channel.send(attempt, listener))

    def _prepare(self) -> None:
        present = (*self._first_secrets, *list(self._later_keys)[-MAX_KEYS_IN_ANSWERS:])
        strong = [secret for secret in present if is_strong(secret)]
        self._search: SecretSearch | None = None
        """For errors; made when the first one comes."""
        self._answer_search = SecretSearch(strong)
        self._may_show = self._answer_search.may_show
        self._has_weak = len(strong) < len(present)

    def _redact(self, reply: Reply) -> Reply:
        """Costs an answer less than 1 us, however many keys there were."""
        if reply.status != 200 or reply.detail or (self._has_weak and b'"error"' in reply.body):
            if self._search is None:
                self._search = SecretSearch(self._secrets)
            search = self._search
            reply.body = search.hide_bytes(reply.body)
            reply.detail = search.hide(reply.detail)
            reply.headers = {name: search.hide_bytes(value) for name, value in reply.headers.items()}
        elif self._may_show(reply.body):
            reply.body = self._answer_search.hide_bytes(reply.body)
        reply.hide = self._hide
        return reply

    def _hide(self, body: bytes) -> bytes:
        """Search a body that is not read as it came: pieces of a stream, UTF-16."""
        is_error = self._has_weak and b'"error"' in body
        return SecretSearch(self._secrets).hide_bytes(body) if is_error else self._answer_search.hide_bytes(body)


def is_strong(secret: bytes) -> bool:
    """Return whether a secret cannot be a word of an answer by chance: it is long, and no plain word."""
    return len(secret) >= MIN_STRONG_CHARS and not secret.isalpha()
