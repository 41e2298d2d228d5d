"""Anthropic's Messages API: the provider. `anthropic_messages` renders prompts and reads replies."""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.providers.on_demand import named_wait_s, read_error
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.urls import base_of

if TYPE_CHECKING:
    from llmblast.providers.anthropic_messages import Messages

API_VERSION = "2023-06-01"
"""The last version that accepts `temperature`, `top_p` and `top_k`; an endpoint's `headers` may name 2026-10-21."""
_PATH = "v1/messages"


class Anthropic:
    """The provider of the Messages API."""

    kind = "anthropic"
    dialects: Mapping[str, str] = {"anthropic.messages": _PATH}
    hosts: Collection[str] = ("api.anthropic.com",)
    key_env = "ANTHROPIC_API_KEY"
    headers: Mapping[str, str] = {"anthropic-version": API_VERSION}
    read_error = staticmethod(read_error)
    named_wait_s = staticmethod(named_wait_s)
    read_limits = staticmethod(read_rate_limits)

    @cached_property
    def _messages(self) -> "Messages":
        """Load the rest at the first prompt: every start knows all providers, and most runs use one."""
        from llmblast.providers.anthropic_messages import Messages  # noqa: PLC0415 -- see above

        return Messages()

    def base_url(self, url: str) -> str:
        """See `Provider`. The path is `/v1/messages`, whether the URL ends in `/v1` or not, as in its clients."""
        return base_of(url, (_PATH,))

    def names_path(self, url: str) -> bool:
        return url.partition("?")[0].rstrip("/").endswith(f"/{_PATH}")

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        return "x-api-key", key

    def unsupported_in(self, prompt: Prompt) -> str | None:
        return self._messages.unsupported_in(prompt)

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        return _PATH, self._messages.render(prompt)

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        """See `Provider`. An unrequested stream is joined; `reply.body` becomes the message in it."""
        return self._messages.read_answer(reply)
