"""The OpenAI API and the many servers that speak it: URL, headers, what a reply says.

https://platform.openai.com/docs/api-reference; vLLM, llama.cpp, Ollama, TGI, LiteLLM and others follow it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ssl import SSLContext
from urllib.parse import urlsplit

import orjson

from llmblast.errors import UsageError
from llmblast.records import Answer, Reply, Request
from llmblast.sending.auth import BEARER_HEADER, DEFAULT_KEY_HEADERS, auth_header, check_auth
from llmblast.sending.embeddings import read_embeddings
from llmblast.sending.finish_reasons import failure_in, is_flagged
from llmblast.sending.lenient_json import NoJsonError, UnreadableReplyError, repaired_json
from llmblast.sending.passed_through import PASSED_THROUGH, Reader, read_list
from llmblast.sending.proxies import Proxy, find_proxy
from llmblast.sending.reply_errors import ReplyError, error_in_success, find_error, is_error, words_of
from llmblast.sending.streams import UnreadableStreamError, join_chunks
from llmblast.sending.tls import new_tls_context
from llmblast.sending.usage import count_of, was_generated
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
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "audio",
    "images",
    "videos",
    "parsed",
    "annotations",
    "citations",
    "context",
    "executed_tools",
)
"""OpenAI, OpenRouter (reasoning_details, images), Ollama (thinking), LiteLLM (thinking_blocks), Azure (context), Groq
(executed_tools).
"""
_CALLS = ("tool_calls", "function_call")


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

    Where the answer is in a stream, in a text or in what strict JSON refuses, `reply.body` becomes the plain reply.
    """
    try:
        data = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return _read_repaired(request, reply)
    return _read_data(request, reply, data)


def _read_repaired(request: Request, reply: Reply) -> Answer | ReplyError:
    if reply.detail:
        return ReplyError(reply.detail, "unusable_reply")
    try:
        body = repaired_json(reply)
        data = orjson.loads(body)
    except (UnreadableReplyError, orjson.JSONDecodeError) as error:
        what = error if isinstance(error, UnreadableReplyError) else "JSON that is nested too deeply"
        words = words_of(reply.body) if isinstance(error, NoJsonError) else ""
        return ReplyError(f"HTTP {reply.status} with {what}{words and f': {words}'}", "unusable_reply")
    received, reply.body = reply.body, body
    answer = _read_data(request, reply, data)
    if not isinstance(answer, Answer):
        reply.body = received
    return answer


def _read_data(request: Request, reply: Reply, data: object) -> Answer | ReplyError:
    if type(data) is not dict:
        return _read_no_object(request, reply, data)
    if data.get("error") and is_error(data["error"]):
        error = find_error(data)
        error.has_usage = _has_usage(data)
        return error
    reader = _READERS.get(request.path, _first_choice)
    answer = reader(request, data)
    if answer is None and reader is _first_choice and (joined := _joined([data])) is not None:
        return _read_inner(request, reply, joined)
    if not isinstance(answer, Answer):
        missing = ReplyError(f"HTTP {reply.status} without an answer in it", "unusable_reply")
        error = answer or error_in_success(data) or missing
        error.has_usage = _has_usage(data)
        return error
    usage = data.get("usage")
    if type(usage) is dict:
        answer.usage = usage
        answer.prompt_tokens = count_of(usage.get("prompt_tokens", usage.get("input_tokens")))
        answer.completion_tokens = count_of(usage.get("completion_tokens", usage.get("output_tokens"))) or 0
    model = data.get("model")
    if type(model) is str:
        answer.model = model
    return answer


def _read_no_object(request: Request, reply: Reply, data: object) -> Answer | ReplyError:
    """Read a reply that is a list, or JSON inside of a text, as some gateways hand it on."""
    if request.path == "embeddings" and type(data) is list and not error_in_success(data):
        return _read_data(request, reply, {"data": data})
    if request.path not in _READERS and type(data) is list and (joined := _joined(data)) is not None:
        return _read_inner(request, reply, joined)
    if type(data) is str and data.lstrip()[:1] == "{":
        try:
            inner = orjson.loads(data)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            inner = None
        if type(inner) is dict:
            return _read_inner(request, reply, inner)
    told = f"HTTP {reply.status} with JSON that is not an object"
    return read_list(request, data) or error_in_success(data) or ReplyError(told, "unusable_reply")


def _read_inner(request: Request, reply: Reply, data: Mapping[str, object]) -> Answer | ReplyError:
    """Read the plain reply that stood in another one, which it replaces if there is an answer in it."""
    answer = _read_data(request, reply, data)
    if isinstance(answer, Answer):
        with suppress(orjson.JSONEncodeError):  # it reads four times the depth that it writes
            reply.body = orjson.dumps(data)
    return answer


def _joined(chunks: Sequence[object]) -> Mapping[str, object] | None:
    """Return the reply that these chunks are, of a stream without its framing; None where they are none."""
    if not any(type(chunk) is dict and _is_chunk(chunk) for chunk in chunks):
        return None
    try:
        reply = join_chunks(chunks, is_ended=len(chunks) == 1)
    except UnreadableStreamError:
        return None
    return reply if type(reply) is dict and not any(_is_chunk(part) for part in (reply, *_choices(reply))) else None


def _is_chunk(value: Mapping[str, object]) -> bool:
    return "done" in value or any("delta" in choice for choice in _choices(value))


def _choices(data: Mapping[str, object]) -> list[Mapping[str, object]]:
    choices = data.get("choices")
    return [choice for choice in choices if type(choice) is dict] if type(choices) is list else []


def _has_usage(data: Mapping[str, object]) -> bool:
    usage = data.get("usage")
    return isinstance(usage, dict) and any(isinstance(count, int) and count > 0 for count in usage.values())


def _first_choice(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the answer in the first choice; where there is none in it, and in another one there is, that."""
    choices = data.get("choices")
    if type(choices) is not list or not choices or type(choices[0]) is not dict:
        return None
    answer = _read_choice(choices[0], data)
    if len(choices) == 1:
        return answer
    others = (_read_choice(choice, data) for choice in choices[1:] if type(choice) is dict)
    if not isinstance(answer, Answer):
        answer = next((other for other in others if isinstance(other, Answer)), answer)
    if isinstance(answer, Answer):
        answer.says_more = True
    return answer


def _read_choice(choice: Mapping[str, object], data: Mapping[str, object]) -> Answer | ReplyError | None:
    finish_reason = choice.get("finish_reason")
    is_usual = finish_reason == "stop" and "error" not in choice and "native_finish_reason" not in choice
    if not is_usual and (failure := failure_in(choice)) is not None:
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
    finish_reason = finish_reason if type(finish_reason) is str else None
    if not text and not says_more and not is_flagged(finish_reason):
        if text is None or finish_reason in _CALLS:
            return None
        if not was_generated(data):
            return ReplyError(_EMPTY_TEXT, "empty_answer")
    answer = Answer(text, finish_reason)
    if says_more or choice.get("logprobs") is not None:
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


_READERS: dict[str, Reader] = {"embeddings": read_embeddings, **PASSED_THROUGH}
"""How the answer is found in the reply to a path; all others have `choices`. None: there is no answer."""
