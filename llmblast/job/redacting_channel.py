"""Redacting channel: remove credentials from replies that repeat them, before these become messages and records.

Some gateways repeat a wrong key in the error (LiteLLM: `Received API Key = sk-...`), and models repeat their prompts: a
secret would go from there into files, logs and bug reports. Answers are searched only for secrets that cannot be plain
words, unlike the key `password` of many local servers. Replaced keys stay hidden: a late reply may repeat them.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llmblast.hiding import may_hold_key
from llmblast.job.secret_search import SecretSearch
from llmblast.models import Attempt, Reply
from llmblast.sending import NO_LISTENER, Channel, ChannelListener

_MIN_PASSWORD_CHARS = 4
_MIN_SECRET_CHARS = 8
"""Minimal lengths of a password and of other credentials; shorter ones, such as `EMPTY` and `x`, are no secrets."""
MIN_STRONG_CHARS = 12
MAX_KEYS_IN_ANSWERS = 3
"""Number of the latest replaced keys to search in answers; errors are searched for all keys."""
MAX_REPLACED_KEYS = 1000
"""Replaced keys to hide: more than are replaced during one request, at one a second and a timeout of 600 s."""


def secrets_of(key: str | None, headers: Mapping[str, str], others: Iterable[str] = ()) -> list[bytes]:
    """Return the words of the endpoint's key and of headers with credentials, and other secrets, longest first."""
    telling = (value for name, value in headers.items() if may_hold_key(name))
    words = {word for text in (key or "", *telling) for word in text.split() if len(word) >= _MIN_SECRET_CHARS}
    words.update(word for word in others if len(word) >= _MIN_PASSWORD_CHARS)
    return sorted((word.encode() for word in words), key=len, reverse=True)


class RedactingChannel:
    """A channel that sends over another one and removes secrets from its replies."""

    def __init__(self, channel: Channel, secrets: Iterable[bytes]) -> None:
        self._channel = channel
        self._first_secrets = tuple(secrets)
        self._later_keys: deque[bytes] = deque(maxlen=MAX_REPLACED_KEYS)
        self._secrets = self._first_secrets
        self.warm_up = channel.warm_up
        self.sweep = channel.sweep
        self.close_idle = channel.close_idle
        self.close = channel.close
        self.abandon = channel.abandon
        self._listeners = NO_LISTENER, NO_LISTENER
        """The caller's last listener, and the listener that redacts replies and calls it."""
        self._prepare()

    @property
    def is_busy(self) -> bool:
        """Return whether the channel has requests in flight."""
        return self._channel.is_busy

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Return the secrets to hide."""
        return self._secrets

    def set_key(self, key: str) -> None:
        """Send later requests with this key, and hide it as well as earlier keys."""
        self.hide((key,))
        self._channel.set_key(key)

    def hide(self, texts: Sequence[str]) -> None:
        """Hide the words of these texts, too."""
        for secret in secrets_of(" ".join(texts), {}):
            if secret not in self._secrets:
                self._later_keys.append(secret)
                self._secrets = tuple(sorted((*self._first_secrets, *self._later_keys), key=len, reverse=True))
                self._prepare()

    def hide_bytes(self, text: bytes) -> bytes:
        """Return a text that came from the endpoint on another way, without secrets."""
        if b'"error":null' in text or b'"error": null' in text:  # a member of each result of some batches
            return self._answer_search.hide_bytes(text)
        return self._hide(text)

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
        """Search for errors; created at the first error."""
        self._answer_search = SecretSearch(strong)
        self._may_show = self._answer_search.may_show
        self._has_weak = len(strong) < len(present)

    def _redact(self, reply: Reply) -> Reply:
        """Remove secrets from a reply; takes less than 1 us for an answer, for any number of keys."""
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
        """Remove secrets from a decoded body: from the joined pieces of a stream, or from UTF-16."""
        is_error = self._has_weak and b'"error"' in body
        return SecretSearch(self._secrets).hide_bytes(body) if is_error else self._answer_search.hide_bytes(body)


def is_strong(secret: bytes) -> bool:
    """Return whether a secret cannot occur in an answer by chance: it is long and not only letters."""
    return len(secret) >= MIN_STRONG_CHARS and not secret.isalpha()
