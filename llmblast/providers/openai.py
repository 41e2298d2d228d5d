"""The OpenAI API and the many servers that speak it: write requests and read replies.

https://platform.openai.com/docs/api-reference; vLLM, llama.cpp, Ollama, TGI, LiteLLM and others follow it.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

import orjson

from llmblast.api_paths import API_PATHS, base_url
from llmblast.models import Answer, Prompt, RateLimitInfo, RawBody, Reply, ReplyError, Request
from llmblast.providers.choices import add_usage, read_first_choice
from llmblast.providers.on_demand import named_wait_s, read_error
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.urls import host_of, is_azure

_loads: Final = orjson.loads
_dumps: Final = orjson.dumps
_KIND: Final = "openai"
_CHAT: Final = "chat/completions"
_DIALECT: Final = "openai.chat"
RESPONSES: Final = "responses"
_WITH_CHOICES: Final = (_CHAT, "completions")
"""Paths whose plain replies are read here; `odd_replies` reads all others."""
_DIALECTS: Final = {f"openai.{'chat' if path == _CHAT else path}": path for path in API_PATHS}
_BASES: Final = ("openai", "openai/v1", "openapi")
_JWT: Final = r"eyJ[\w-]+\.[\w-]+\.[\w-]*"
"""RFC 7519: the tokens of Microsoft Entra ID, which Azure accepts as bearer tokens only."""


def read_reply(request: Request, reply: Reply, path: str) -> Answer | ReplyError:
    """Return the answer or the error in a 2xx reply of a path of this API. Never raises.

    Where the answer is in a stream, in a text or in a body that strict JSON refuses, `reply.body` becomes the plain
    reply.
    """
    try:
        data = _loads(reply.body)
    except orjson.JSONDecodeError:
        from llmblast.providers.odd_replies import read_broken_json  # noqa: PLC0415 -- at the first of them

        return read_broken_json(request, reply, path)
    if path in _WITH_CHOICES and type(data) is dict and not data.get("error"):
        answer = read_first_choice(data)
        if isinstance(answer, Answer):
            return add_usage(answer, data)
    from llmblast.providers.odd_replies import read_data  # noqa: PLC0415 -- at the first of them

    return read_data(request, reply, data, path)


def path_of(request: Request, kind: str, path_of_prompts: str) -> str:
    """Return the path of this API that the request went to, by a provider of this kind."""
    if request.kind == kind or request.content is None:
        return request.path
    return _DIALECTS[request.content.dialect] if isinstance(request.content, RawBody) else path_of_prompts


def azure_auth_header(key: str) -> tuple[str, str]:
    """Return name and value of the header that brings a key to Azure OpenAI: a token is no API key there."""
    return ("Authorization", f"Bearer {key}") if re.fullmatch(_JWT, key) else ("api-key", key)


class OpenAI:
    """The provider of the OpenAI API."""

    def __init__(self) -> None:
        self.kind = _KIND
        self.dialects: Mapping[str, str] = _DIALECTS
        self.hosts: Collection[str] = ("api.openai.com",)
        self.key_env = "OPENAI_API_KEY"
        self.headers: Mapping[str, str] = {}
        self.flex_member = b'"service_tier":"flex"'
        self.flex_paths = (_CHAT, RESPONSES)
        self._system: str | None = None
        self._head = _head(None)
        self._params: Mapping[str, object] = {}
        self._schema: Mapping[str, object] | None = None
        self._tail = _tail({}, None)

    def base_url(self, url: str) -> str:
        return base_url(url)

    def names_path(self, url: str) -> bool:
        """See `Provider`. The clouds call the base of this API `/openai`, `/openai/v1` or `/openapi`. Another provider
        knows `/responses`.
        """
        path = url.partition("?")[0].rstrip("/")
        is_known = any(path.endswith(f"/{api_path}") for api_path in (*API_PATHS, *_BASES) if api_path != RESPONSES)
        return is_known and not is_azure(host_of(url))

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        return azure_auth_header(key) if is_azure(host_of(url)) else ("Authorization", f"Bearer {key}")

    def unsupported_in(self, prompt: Prompt) -> str | None:
        if not prompt.parts:
            return None
        from llmblast.providers.chat_parts import unsupported_part  # noqa: PLC0415 -- most runs send no media

        return unsupported_part(prompt)

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        """See `Provider`. Parts that the next prompt shares with the last one are not encoded again."""
        if prompt.system is not self._system:
            self._head, self._system = _head(prompt.system), prompt.system
        if prompt.params is not self._params or prompt.schema is not self._schema:
            self._tail = _tail(prompt.params, prompt.schema)
            self._params, self._schema = prompt.params, prompt.schema
        content: object = prompt.text
        if prompt.parts:
            from llmblast.providers.chat_parts import parts_of  # noqa: PLC0415 -- see above

            content = parts_of(prompt)
        return _CHAT, b"".join((self._head, _dumps(content), self._tail))

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        return read_reply(request, reply, path_of(request, _KIND, _CHAT))

    def read_error(self, reply: Reply) -> ReplyError:
        return read_error(reply)

    def named_wait_s(self, error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
        return named_wait_s(error, reply, wall_now_s)

    def read_limits(self, headers: Collection[tuple[bytes, bytes]], wall_now_s: float) -> list[RateLimitInfo]:
        return read_rate_limits(headers, wall_now_s)


def _head(system: str | None) -> bytes:
    """Return a body up to the content of the user message."""
    message = b'{"role":"system","content":%b},' % orjson.dumps(system) if system else b""
    return b'{"messages":[%b{"role":"user","content":' % message


def _tail(params: Mapping[str, object], schema: Mapping[str, object] | None) -> bytes:
    """Return a body from the content of the user message on. A form of the answer among the parameters counts more than
    the schema.
    """
    members = params
    if schema is not None:
        from llmblast.providers.structured_outputs import with_schema  # noqa: PLC0415 -- most runs have no schema

        members = with_schema(params, schema, _DIALECT)
    return b"}]," + orjson.dumps(members)[1:] if members else b"}]}"
