"""The OpenAI API and the many servers that speak it: URL, headers, what a reply says.

https://platform.openai.com/docs/api-reference; vLLM, llama.cpp, Ollama, TGI, LiteLLM and others follow it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ssl import SSLContext
from urllib.parse import urlsplit

import orjson

from llmblast.errors import UsageError
from llmblast.records import Answer, Reply, Request
from llmblast.sending.auth import BEARER_HEADER, DEFAULT_KEY_HEADERS, auth_header, check_auth
from llmblast.sending.finish_reasons import failure_in, is_flagged
from llmblast.sending.lenient_json import UnreadableReplyError, repaired_json
from llmblast.sending.passed_through import PASSED_THROUGH, Reader, read_list
from llmblast.sending.proxies import Proxy, find_proxy
from llmblast.sending.reply_errors import ReplyError, find_error
from llmblast.sending.tls import new_tls_context
from llmblast.settings import EndpointSettings, base_url

USER_AGENT = "llmblast/0.1"
_HEADERS_OF_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_VERSION = re.compile(r"/v\d+$")
_OWN_VERSION = re.compile(r"v\d+/")
"""Paths such as `v2/rerank` take the place of the base's own version."""
_COPIED_BYTES = 16 * 1024
_TEXT_PARTS = ("text", "output_text", None)
_PLAIN_PART = ("type", "text")
_PLAIN_MESSAGE = ("role", "content")
_EMPTY_TEXT = "the answer is empty, and no token was generated for it"
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
        base = _VERSION.sub("", parts.path) if _OWN_VERSION.match(path) else parts.path
        return parts._replace(path=f"{base}/{path}").geturl()


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
        raise UsageError(f"endpoint {endpoint}: the header {name} is set by llmblast itself: remove it from headers")
    is_token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not is_token or not (value.isascii() and value.isprintable()):
        raise UsageError(f"endpoint {endpoint}: the header {name!r} or its value has wrong characters: correct it")


def read_answer(request: Request, reply: Reply) -> Answer | ReplyError:
    """The answer in a 2xx reply, or what is wrong with it. Never raises, whatever the body is.

    Where strict JSON refuses the body and an answer is in it all the same, `reply.body` becomes strict JSON.
    """
    try:
        data = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return _read_repaired(request, reply)
    return _read_data(request, reply.status, data)


def _read_repaired(request: Request, reply: Reply) -> Answer | ReplyError:
    if reply.detail:
        return ReplyError(reply.detail, "unusable_reply")
    try:
        body = repaired_json(reply)
        data = orjson.loads(body)
    except (UnreadableReplyError, orjson.JSONDecodeError) as error:
        what = error if isinstance(error, UnreadableReplyError) else "JSON that is nested too deeply"
        return ReplyError(f"HTTP {reply.status} with {what}", "unusable_reply")
    answer = _read_data(request, reply.status, data)
    if isinstance(answer, Answer):
        reply.body = body
    return answer


def _read_data(request: Request, status: int, data: object) -> Answer | ReplyError:
    if type(data) is not dict:
        told = f"HTTP {status} with JSON that is not an object"
        return read_list(request, data) or _error_in_success(data) or ReplyError(told, "unusable_reply")
    if data.get("error"):
        error = find_error(data)
        error.has_usage = _has_usage(data)
        return error
    answer = _READERS.get(request.path, _first_choice)(request, data)
    if not isinstance(answer, Answer):
        missing = ReplyError(f"HTTP {status} without an answer in it", "unusable_reply")
        error = answer or _error_in_success(data) or missing
        error.has_usage = _has_usage(data)
        return error
    usage = data.get("usage")
    if type(usage) is dict:
        answer.usage = usage
        answer.prompt_tokens = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        answer.completion_tokens = _count(usage.get("completion_tokens", usage.get("output_tokens"))) or 0
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


def _first_choice(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    choices = data.get("choices")
    if type(choices) is not list or not choices or type(choices[0]) is not dict:
        return None
    choice = choices[0]
    if (failure := failure_in(choice)) is not None:
        return _failed_generation(choice, failure)
    message = choice.get("message")
    if type(message) is dict:
        text = message.get("content")
        may_say_more = text is None or len(message) > len(_PLAIN_MESSAGE)
        says_more = may_say_more and any(message.get(name) for name in _MORE_IN_A_MESSAGE)
    else:
        text, says_more = choice.get("text"), False
    if type(text) is list or type(text) is dict:
        text, has_other_parts = _text_in(text if type(text) is list else [text])
        says_more = says_more or has_other_parts
    finish_reason = choice.get("finish_reason")
    finish_reason = finish_reason if type(finish_reason) is str else None
    if not text and not says_more and not is_flagged(finish_reason) and (text is None or not _was_generated(data)):
        return None if text is None else ReplyError(_EMPTY_TEXT, "empty_answer")
    answer = Answer(text, finish_reason)
    if says_more or len(choices) > 1 or choice.get("logprobs") is not None:
        answer.says_more = True
    return answer


def _failed_generation(choice: Mapping[str, object], reason: str) -> ReplyError:
    """Return what is known of a generation that failed: its message and, unless it is a server's own fault, status.

    A server's own fault is judged like any other unusable reply, since a part of the answer may have been paid for.
    """
    details = choice.get("finish_reason")
    error = find_error(choice if choice.get("error") else details if type(details) is dict else {})
    error.message = f"the generation failed (finish_reason {reason!r}){error.message and f': {error.message}'}"
    error.code = "generation_failed"
    if error.status is not None and error.status >= 500:
        error.status = None
    return error


def _text_in(parts: Sequence[object]) -> tuple[str, bool]:
    """Return the text of a content that comes in parts, and whether they hold more: thinking, images, citations."""
    texts, has_more = [], False
    for part in parts:
        if type(part) is str:
            texts.append(part)
        elif type(part) is dict and part.get("type") in _TEXT_PARTS and type(part.get("text")) is str:
            texts.append(part["text"])
            has_more = has_more or any(value for name, value in part.items() if name not in _PLAIN_PART)
        else:
            has_more = True
    return "".join(texts), has_more


def _was_generated(data: Mapping[str, object]) -> bool:
    """Return whether the usage of a reply counts a token beyond the prompt: the model said nothing, and meant it."""
    usage = data.get("usage")
    if type(usage) is not dict:
        return False
    details = usage.get("completion_tokens_details")
    counts = [usage.get("completion_tokens"), usage.get("output_tokens"), usage.get("reasoning_tokens")]
    counts.append(details.get("reasoning_tokens") if type(details) is dict else None)
    in_all, in_prompt = _count(usage.get("total_tokens")), _count(usage.get("prompt_tokens"))
    return any(_count(count) for count in counts) or (in_all or 0) > (in_prompt or 0) > 0


def _embeddings(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the vectors in the order of the texts, as many as there are texts."""
    items = data.get("data")
    if not isinstance(items, list) or not items:
        return None
    vectors = [item.get("embedding") if isinstance(item, dict) else None for item in items]
    if any(vector is None for vector in vectors):
        return None
    expected = _count_of_texts(request.body)
    if expected is not None and expected != len(items):
        return ReplyError(f"the reply has {len(items)} embeddings for {expected} texts", "wrong_embeddings")
    indexes = [item.get("index") for item in items]
    if indexes != list(range(len(items))) and any(index is not None for index in indexes):
        order: dict[object, int] = {index: n for n, index in enumerate(indexes) if type(index) is int}
        if any(index not in order for index in range(len(items))):
            return ReplyError("the indexes of the embeddings do not match the texts", "wrong_embeddings")
        vectors = [vectors[order[index]] for index in range(len(items))]
    return Answer(text=vectors[0] if len(vectors) == 1 else vectors)


def _count_of_texts(body: bytes) -> int | None:
    """Return how many texts a request asks embeddings for, or None if it does not show. A list of tokens is one."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    texts = fields.get("input") if type(fields) is dict else None
    if type(texts) is not list:
        return 1 if type(texts) is str else None
    return 1 if texts and all(type(text) is int for text in texts) else len(texts)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


_READERS: dict[str, Reader] = {"embeddings": _embeddings, **PASSED_THROUGH}
"""How the answer is found in the reply to a path; all others have `choices`. None: there is no answer."""
