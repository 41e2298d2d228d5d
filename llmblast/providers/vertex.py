"""Vertex AI: the providers of Google's and of Anthropic's models there.

The URL of an endpoint has project and location; the key is a token, as `gcloud auth print-access-token` prints it.
Sources: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference,
https://docs.anthropic.com/en/api/claude-on-vertex-ai, and for API keys
https://cloud.google.com/vertex-ai/generative-ai/docs/start/api-keys
"""

import re
from collections.abc import Collection, Mapping
from urllib.parse import quote, urlsplit

from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import MODEL_PLACE
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.gemini import DIALECT, Gemini
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.urls import base_and_model, host_of

ANTHROPIC_VERSION = "vertex-2023-10-16"
_DOMAIN = ".googleapis.com"
_HOST = r"(?:[a-z0-9-]+-)?aiplatform(?:\.[a-z0-9-]+\.rep)?\.googleapis\.com"
_PATH = f"publishers/google/models/{MODEL_PLACE}:generateContent"
_CLAUDE_PATH = f"publishers/anthropic/models/{MODEL_PLACE}:rawPredict"
_IN_URL = r"/publishers/google/models/([^/]+):(?:generateContent|streamGenerateContent)"
_CLAUDE_IN_URL = r"/publishers/anthropic/models/([^/]+):(?:rawPredict|streamRawPredict)"
_LOCATION = r"/projects/[^/]+/locations/[^/]+"
_PUBLISHER = r"publishers/[^/{]+/models/"
_API_KEY = r"AIza|AQ\."


class Vertex:
    """The provider of generateContent at Vertex AI."""

    kind = "vertex"
    dialects: Mapping[str, str] = {DIALECT: _PATH}
    hosts: Collection[str] = ()
    key_env = "GOOGLE_OAUTH_ACCESS_TOKEN"
    headers: Mapping[str, str] = {}
    body_prefix = b""

    def __init__(self) -> None:
        self._gemini = Gemini()
        self.unsupported_in = self._gemini.unsupported_in
        self.read_answer = self._gemini.read_answer
        self.read_error = self._gemini.read_error
        self.named_wait_s = self._gemini.named_wait_s
        self.read_limits = read_rate_limits

    def base_url(self, url: str) -> str:
        return _base_url(url, _IN_URL)

    def names_path(self, url: str) -> bool:
        """See `Provider`. A URL that ends in a location is one for Google's models."""
        path, host = urlsplit(url).path.rstrip("/"), host_of(url) or ""
        is_place = host.endswith(_DOMAIN) and re.fullmatch(_HOST, host) is not None
        is_bare = is_place and re.search(rf"(?:{_LOCATION}|^(?:/v1(?:beta1)?)?)$", path) is not None
        return is_bare or _names_model(path, _IN_URL)

    def model_in(self, url: str) -> str | None:
        return base_and_model(url, _IN_URL)[1]

    def path_for(self, path: str, model: str) -> str:
        return _path_for(path, model)

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        """See `Provider`. A key of Vertex AI in express mode begins like other API keys of Google."""
        return ("x-goog-api-key", key) if re.match(_API_KEY, key) else ("Authorization", f"Bearer {key}")

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        return _PATH, self._gemini.render(prompt)[1]


class VertexAnthropic:
    """The provider of the Messages API at Vertex AI: the body names the API's version instead of the model."""

    kind = "vertex-anthropic"
    dialects: Mapping[str, str] = {"anthropic.messages": _CLAUDE_PATH}
    hosts: Collection[str] = ()
    key_env = "VERTEX_ANTHROPIC_ACCESS_TOKEN"
    other_key_env = Vertex.key_env
    headers: Mapping[str, str] = {}
    body_prefix = f'{{"anthropic_version":"{ANTHROPIC_VERSION}",'.encode()

    def __init__(self) -> None:
        self._anthropic = Anthropic()
        self.unsupported_in = self._anthropic.unsupported_in
        self.read_error = self._anthropic.read_error
        self.read_limits = self._anthropic.read_limits

    def base_url(self, url: str) -> str:
        return _base_url(url, _CLAUDE_IN_URL)

    def names_path(self, url: str) -> bool:
        return _names_model(urlsplit(url).path.rstrip("/"), _CLAUDE_IN_URL)

    def model_in(self, url: str) -> str | None:
        return base_and_model(url, _CLAUDE_IN_URL)[1]

    def path_for(self, path: str, model: str) -> str:
        return _path_for(path, model)

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        return "Authorization", f"Bearer {key}"

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        return _CLAUDE_PATH, self._anthropic.render(prompt)[1]

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        return self._anthropic.read_answer(request, reply)

    def named_wait_s(self, error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
        from llmblast.providers.google_errors import google_wait_s  # noqa: PLC0415 -- at the first error

        return google_wait_s(error, reply, wall_now_s)


def _names_model(path: str, in_url: str) -> bool:
    """Return whether a path ends with a model. The search in it first saves most runs the pattern."""
    return "/publishers/" in path and re.search(f"{in_url}$", path) is not None


def _base_url(url: str, in_url: str) -> str:
    """Return the base: a URL with a host only gets `/v1`, as a key in express mode has neither project nor location."""
    base, _ = base_and_model(url, in_url)
    parts = urlsplit(base)
    return parts._replace(path=parts.path or "/v1").geturl()


def _path_for(path: str, model: str) -> str:
    """Return the path; a model may be named with its publisher, `publishers/google/models/NAME`."""
    if model.startswith("publishers/"):
        path = re.sub(f"{_PUBLISHER}(?={re.escape(MODEL_PLACE)})", "", path)
    return path.replace(MODEL_PLACE, quote(model, safe="/@"))
