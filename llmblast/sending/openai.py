"""The OpenAI API and the many servers that speak it: URL, headers, what a reply says.

https://platform.openai.com/docs/api-reference; vLLM, llama.cpp, Ollama, TGI, LiteLLM and others follow it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ssl import SSLContext
from urllib.parse import urlsplit

import orjson

from llmblast.errors import UsageError
from llmblast.records import Answer, Reply, Request
from llmblast.sending.auth import BEARER_HEADER, DEFAULT_KEY_HEADERS, auth_header, check_auth
from llmblast.sending.proxies import Proxy, find_proxy
from llmblast.sending.reply_errors import ReplyError, find_error
from llmblast.sending.tls import new_tls_context
from llmblast.settings import EndpointSettings, base_url

USER_AGENT = "llmblast/0.1"
_HEADERS_OF_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_COPIED_BYTES = 16 * 1024
_CUT_OFF_REASONS = ("length", "content_filter")
_PLAIN_MESSAGE = ("role", "content")
_MORE_IN_A_MESSAGE = (
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning",
    "reasoning_content",
    "audio",
    "annotations",
)


def _bearer(key: str) -> tuple[str, str]:
    return BEARER_HEADER, f"Bearer {key}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to send to one endpoint, prepared once. `headers` may hold the key and never show in a repr."""

    name: str
    base: str
    headers: Mapping[str, str] = field(repr=False)
    model_prefix: bytes
    """`{"model":"...",`, which replaces the opening brace of a body that has no model; empty without a model."""
    auth_header: Callable[[str], tuple[str, str]] = field(default=_bearer, repr=False)
    """Returns name and value of the header for a key."""
    own_headers: frozenset[str] = frozenset()
    """The headers that the endpoint's settings have, in lower case: they go before ours, the one with the key, too."""
    proxy: Proxy | None = None
    tls: SSLContext | None = None
    """What an https endpoint is verified with, where that is not the default."""

    def with_key(self, key: str) -> "Target":
        """Return the same target with another API key."""
        name, value = self.auth_header(key)
        if name.lower() in self.own_headers:
            return self
        replaced = {name.lower(), *DEFAULT_KEY_HEADERS} - self.own_headers
        kept = {header: text for header, text in self.headers.items() if header.lower() not in replaced}
        return replace(self, headers={**kept, name: value})

    def body_of(self, request: Request) -> bytes:
        """The JSON to send: the request's, with this endpoint's model where it names none."""
        start, rest = self.parts_of(request)
        return start + rest if start else request.body

    def parts_of(self, request: Request) -> tuple[bytes, bytes | memoryview]:
        """The same in two parts, so that a long prompt is not copied for the sake of the model in front of it."""
        body = request.body
        if not request.needs_model or not self.model_prefix:
            return b"", body
        return self.model_prefix, body[1:] if len(body) <= _COPIED_BYTES else memoryview(body)[1:]

    def url_of(self, path: str) -> str:
        """Where requests for `path` go; a query in the base URL, such as `?api-version=`, stays behind the path."""
        parts = urlsplit(self.base)
        return parts._replace(path=f"{parts.path}/{path}").geturl()


def make_target(
    endpoint: EndpointSettings, model: str | None, key: str | None, environ: Mapping[str, str] | None = None
) -> Target:
    """Prepares the target; `model` is the run's, the endpoint's own goes before it, as do its headers. `environ` may
    name proxies.

    Raises UsageError for a header that HTTP cannot carry or that the transports write themselves, for a proxy and for
    certificates that cannot be used. Reads files.
    """
    headers = {
        "User-Agent": USER_AGENT,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }
    for header, value in endpoint.headers.items():
        _check_header(endpoint.name, header, value)
    check_auth(endpoint)
    theirs = frozenset(header.lower() for header in endpoint.headers)
    headers = {header: value for header, value in headers.items() if header.lower() not in theirs}
    headers.update(endpoint.headers)
    name = endpoint.model or model
    prefix = b'{"model":' + orjson.dumps(name) + b"," if name else b""
    target = Target(
        endpoint.name,
        base_url(endpoint.url),
        headers,
        prefix,
        partial(auth_header, endpoint),
        theirs,
        find_proxy(endpoint, environ or {}),
        new_tls_context(endpoint),
    )
    return target if key is None else target.with_key(key)


def _check_header(endpoint: str, name: str, value: str) -> None:
    if name.lower() in _HEADERS_OF_OURS:
        raise UsageError(f"endpoint {endpoint}: the header {name} is set by llmblast itself: take it out of headers.")
    is_token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not is_token or not (value.isascii() and value.isprintable()):
        raise UsageError(f"endpoint {endpoint}: the header {name!r} has characters that no HTTP header can carry.")


def read_answer(request: Request, reply: Reply) -> Answer | ReplyError:
    """The answer in a 2xx reply, or what is wrong with it. Never raises, whatever the body is."""
    try:
        data = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        what = "an empty body" if not reply.body.strip() else "a body that is not JSON"
        told = reply.detail or f"HTTP {reply.status} with {what}"
        return ReplyError(told, "unusable_reply")
    if type(data) is not dict:
        told = f"HTTP {reply.status} with JSON that is no object"
        return _error_in_success(data) or ReplyError(told, "unusable_reply")
    if data.get("error"):
        error = find_error(data)
        error.has_usage = _has_usage(data)
        return error
    answer = _embeddings(data) if request.path == "embeddings" else _first_choice(data)
    if answer is None:
        error = _error_in_success(data) or ReplyError(f"HTTP {reply.status} without an answer in it", "unusable_reply")
        error.has_usage = _has_usage(data)
        return error
    usage = data.get("usage")
    if type(usage) is dict:
        answer.usage = usage
        answer.prompt_tokens = _count(usage.get("prompt_tokens"))
        answer.completion_tokens = _count(usage.get("completion_tokens")) or 0
    model = data.get("model")
    if type(model) is str:
        answer.model = model
    return answer


def _error_in_success(data: object) -> ReplyError | None:
    """What a 2xx reply without an answer says is wrong, in shapes that have no `error` member."""
    error = find_error(data)
    return error if error.message and error.objects else None


def _has_usage(data: Mapping[str, object]) -> bool:
    usage = data.get("usage")
    return isinstance(usage, dict) and any(isinstance(count, int) and count > 0 for count in usage.values())


def _first_choice(data: Mapping[str, object]) -> Answer | None:
    choices = data.get("choices")
    if type(choices) is not list or not choices or type(choices[0]) is not dict:
        return None
    choice = choices[0]
    message = choice.get("message")
    if type(message) is dict:
        text = message.get("content")
        may_say_more = text is None or len(message) > len(_PLAIN_MESSAGE)
        says_more = may_say_more and any(message.get(name) for name in _MORE_IN_A_MESSAGE)
    else:
        text, says_more = choice.get("text"), False
    finish_reason = choice.get("finish_reason")
    if text is None and not says_more and finish_reason not in _CUT_OFF_REASONS:
        return None
    answer = Answer(text, finish_reason if type(finish_reason) is str else None)
    if says_more or len(choices) > 1 or choice.get("logprobs") is not None:
        answer.says_more = True
    return answer


def _embeddings(data: Mapping[str, object]) -> Answer | None:
    items = data.get("data")
    if not isinstance(items, list) or not items:
        return None
    vectors = [item.get("embedding") if isinstance(item, dict) else None for item in items]
    if any(vector is None for vector in vectors):
        return None
    return Answer(text=vectors[0] if len(vectors) == 1 else vectors)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
