"""Gemini's own API: the provider. `gemini_contents` renders prompts and reads replies.

Sources: https://ai.google.dev/api, https://ai.google.dev/gemini-api/docs/api-key
"""

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import MODEL_PLACE
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.urls import base_and_model, host_of

if TYPE_CHECKING:
    from llmblast.providers.gemini_contents import Contents

DIALECT = "gemini.generate"
_HOST = "generativelanguage.googleapis.com"
_PATH = f"models/{MODEL_PLACE}:generateContent"
_IN_URL = r"/(?:models|tunedModels)/([^/]+):(?:generateContent|streamGenerateContent)"
_BASES = ("", "/v1", "/v1alpha", "/v1beta")
_DEFAULT_BASE = "/v1beta"
_KINDS_OF_MODELS = ("models/", "tunedModels/")


class Gemini:
    """The provider of generateContent with an API key."""

    kind = "gemini"
    dialects: Mapping[str, str] = {DIALECT: _PATH}
    hosts: Collection[str] = (_HOST,)
    key_env = "GEMINI_API_KEY"
    other_key_env = "GOOGLE_API_KEY"
    headers: Mapping[str, str] = {}
    body_prefix = b""
    flex_member = b'"serviceTier":"flex"'
    flex_paths = (":generateContent",)
    read_limits = staticmethod(read_rate_limits)

    @cached_property
    def _contents(self) -> "Contents":
        """Load the rest at the first prompt: every start knows all providers, and most runs use one."""
        from llmblast.providers.gemini_contents import Contents  # noqa: PLC0415 -- see above

        return Contents()

    def base_url(self, url: str) -> str:
        """See `Provider`. A URL without a path, or with the `/v1` of other APIs, gets `/v1beta`, which knows all."""
        base, _ = base_and_model(url, _IN_URL)
        parts = urlsplit(base)
        is_bare = parts.path in ("", "/v1") and base == url.strip().rstrip("/")
        return parts._replace(path=_DEFAULT_BASE).geturl() if is_bare else base

    def names_path(self, url: str) -> bool:
        path = urlsplit(url).path.rstrip("/")
        is_bare = host_of(url) == _HOST and path in _BASES
        if is_bare or ":" not in path or "/publishers/" in path:
            return is_bare
        return re.search(f"{_IN_URL}$", path) is not None

    def model_in(self, url: str) -> str | None:
        return base_and_model(url, _IN_URL)[1]

    def path_for(self, path: str, model: str) -> str:
        """See `PathProvider`. Models may have the names of the API's own list: `models/NAME`, `tunedModels/NAME`."""
        if model.startswith(_KINDS_OF_MODELS):
            path = path.replace(f"models/{MODEL_PLACE}", MODEL_PLACE)
        return path.replace(MODEL_PLACE, quote(model, safe="/@"))

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        """See `Provider`. A token of OAuth, as gcloud prints it, is no API key."""
        return ("Authorization", f"Bearer {key}") if key.startswith("ya29.") else ("x-goog-api-key", key)

    def unsupported_in(self, prompt: Prompt) -> str | None:
        return self._contents.unsupported_in(prompt)

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        return _PATH, self._contents.render(prompt)

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        return self._contents.read_answer(reply)

    def read_error(self, reply: Reply) -> ReplyError:
        from llmblast.providers.google_errors import read_google_error  # noqa: PLC0415 -- at the first error

        return read_google_error(reply)

    def named_wait_s(self, error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
        from llmblast.providers.google_errors import google_wait_s  # noqa: PLC0415 -- at the first error

        return google_wait_s(error, reply, wall_now_s)
