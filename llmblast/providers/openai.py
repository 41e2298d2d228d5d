"""The OpenAI API and the many servers that speak it: how a request is written, what a reply says.

https://platform.openai.com/docs/api-reference; vLLM, llama.cpp, Ollama, TGI, LiteLLM and others follow it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import orjson

from llmblast.providers.embeddings import read_embeddings
from llmblast.providers.finish_reasons import failure_in, is_flagged
from llmblast.providers.passed_through import PASSED_THROUGH, Reader, read_list
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.providers.reply_errors import error_in_success, find_error, is_error, read_error, read_repaired
from llmblast.providers.streams import UnreadableStreamError, join_chunks
from llmblast.providers.usage import count_of, was_generated
from llmblast.providers.wait_hints import named_wait_s
from llmblast.records import Answer, Prompt, RawBody, Reply, ReplyError, Request
from llmblast.settings import API_PATHS, base_url
from llmblast.urls import host_of, is_azure

_CHAT = "chat/completions"
_SHORT_NAMES = {_CHAT: "chat"}
_AZURE_HEADER = "api-key"
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
"""RFC 7519: what Microsoft Entra ID issues, and Azure takes as a bearer token only."""
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
    repaired = read_repaired(reply)
    if isinstance(repaired, ReplyError):
        return repaired
    data, body = repaired
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
    reader = _READERS.get(_path_of(request), _first_choice)
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


def _path_of(request: Request) -> str:
    """Return the path of this API that the request went to."""
    if request.kind != OpenAI.kind and isinstance(request.content, RawBody):
        return OpenAI.dialects[request.content.dialect]
    return request.path


def _read_no_object(request: Request, reply: Reply, data: object) -> Answer | ReplyError:
    """Read a reply that is a list, or JSON inside of a text, as some gateways hand it on."""
    path = _path_of(request)
    if path == "embeddings" and type(data) is list and not error_in_success(data):
        return _read_data(request, reply, {"data": data})
    if path not in _READERS and type(data) is list and (joined := _joined(data)) is not None:
        return _read_inner(request, reply, joined)
    if type(data) is str and data.lstrip()[:1] == "{":
        try:
            inner = orjson.loads(data)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            inner = None
        if type(inner) is dict:
            return _read_inner(request, reply, inner)
    told = f"HTTP {reply.status} with JSON that is not an object"
    return read_list(path, data) or error_in_success(data) or ReplyError(told, "unusable_reply")


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


class OpenAI:
    """The provider of the OpenAI API."""

    kind = "openai"
    dialects: Mapping[str, str] = {f"openai.{_SHORT_NAMES.get(path, path)}": path for path in API_PATHS}
    hosts: Collection[str] = ("api.openai.com",)
    key_env = "OPENAI_API_KEY"
    headers: Mapping[str, str] = {}
    base_url = staticmethod(base_url)
    read_answer = staticmethod(read_answer)
    read_error = staticmethod(read_error)
    named_wait_s = staticmethod(named_wait_s)
    read_limits = staticmethod(read_rate_limits)

    def __init__(self) -> None:
        self._system: str | None = None
        self._head = _head(None)
        self._params: Mapping[str, object] = {}
        self._tail = _tail({})

    def names_path(self, url: str) -> bool:
        path = url.partition("?")[0].rstrip("/")
        return any(path.endswith(f"/{api_path}") for api_path in API_PATHS)

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        if is_azure(host_of(url)) and not _JWT.fullmatch(key):
            return _AZURE_HEADER, key
        return "Authorization", f"Bearer {key}"

    def unsupported_in(self, prompt: Prompt) -> str | None:
        return None

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        """See `Provider`. What the next prompt has in common with the last one is not encoded again."""
        if prompt.system is not self._system:
            self._head, self._system = _head(prompt.system), prompt.system
        if prompt.params is not self._params:
            self._tail, self._params = _tail(prompt.params), prompt.params
        content: object = prompt.text
        if prompt.images:
            images = [{"type": "image_url", "image_url": {"url": url}} for url in prompt.images]
            content = [{"type": "text", "text": prompt.text}, *images]
        return _CHAT, b"".join((self._head, orjson.dumps(content), self._tail))


def _head(system: str | None) -> bytes:
    """Return a body up to the content of the user message."""
    message = b'{"role":"system","content":%b},' % orjson.dumps(system) if system else b""
    return b'{"messages":[%b{"role":"user","content":' % message


def _tail(params: Mapping[str, object]) -> bytes:
    """Return a body from the content of the user message on."""
    return b"}]," + orjson.dumps(dict(params))[1:] if params else b"}]}"
