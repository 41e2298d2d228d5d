"""The OpenAI API and the many servers that speak it: how a request is written, what a reply says.

https://platform.openai.com/docs/api-reference; vLLM, llama.cpp, Ollama, TGI, LiteLLM and others follow it.
"""

import re
from collections.abc import Collection, Mapping, Sequence

import orjson

from llmblast.providers.finish_reasons import failure_in, is_flagged
from llmblast.providers.lenient_json import read_repaired
from llmblast.providers.passed_through import PASSED_THROUGH, Reader, read_list
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.providers.reply_errors import find_error, read_error
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
    "audio",
    "annotations",
)


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
    repaired = read_repaired(reply)
    if isinstance(repaired, ReplyError):
        return repaired
    data, body = repaired
    answer = _read_data(request, reply.status, data)
    if isinstance(answer, Answer):
        reply.body = body
    return answer


def _read_data(request: Request, status: int, data: object) -> Answer | ReplyError:
    if type(data) is not dict:
        told = f"HTTP {status} with JSON that is no object"
        return read_list(_path_of(request), data) or _error_in_success(data) or ReplyError(told, "unusable_reply")
    if data.get("error"):
        error = find_error(data)
        error.has_usage = _has_usage(data)
        return error
    answer = _READERS.get(_path_of(request), _first_choice)(request, data)
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


def _path_of(request: Request) -> str:
    """Return the path of this API that the request went to."""
    if request.kind != OpenAI.kind and isinstance(request.content, RawBody):
        return OpenAI.dialects[request.content.dialect]
    return request.path


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
        return ReplyError(f"{len(items)} embeddings came for {expected} texts", "wrong_embeddings")
    indexes = [item.get("index") for item in items]
    if indexes != list(range(len(items))) and any(index is not None for index in indexes):
        order: dict[object, int] = {index: n for n, index in enumerate(indexes) if type(index) is int}
        if any(index not in order for index in range(len(items))):
            return ReplyError("the indexes of the embeddings are not those of the texts", "wrong_embeddings")
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
