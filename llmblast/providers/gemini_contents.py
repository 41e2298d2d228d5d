"""Google's generateContent, as Gemini's own API and Vertex AI have it: render prompts and read replies.

Sources: https://ai.google.dev/api/generate-content, https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference,
/docs/thinking, /docs/openai (budgets for `reasoning_effort`), and the types of
https://github.com/googleapis/python-genai.
"""

import re
from collections.abc import Callable, Mapping

import orjson

from llmblast.models import Answer, Part, Prompt, Reply, ReplyError
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.finish_reasons import failure_in
from llmblast.providers.rendering import SharedTail, unsupported_param
from llmblast.providers.structured_outputs import with_schema
from llmblast.providers.usage import add_cache_counts, count_of
from llmblast.urls import host_of

_DOCUMENTS = ("application/pdf", "application/json", "application/xml")
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".pdf": "application/pdf",
    ".mp4": "video/mp4",
    ".mov": "video/mov",
    ".webm": "video/webm",
    ".mp3": "audio/mp3",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
}
"""Media types of files that a URL names, which the API wants to know, by the end of the path."""
_WITH_KNOWN_TYPE = ("youtube.com", "www.youtube.com", "youtu.be", "generativelanguage.googleapis.com")
"""Hosts of videos and of uploaded files, whose types the API knows."""
_UNSUPPORTED = ("logit_bias", "parallel_tool_calls", "service_tier", "store")
"""Parameters of OpenAI's API that change an answer or its price and have no equivalent here."""
_NOT_IN_CONFIG = frozenset(
    {"safetySettings", "tools", "toolConfig", "cachedContent", "labels", "systemInstruction", "modelArmorConfig"}
)
"""Members of a request beside `generationConfig`; all other parameters are members of that."""
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_CHOICES: Mapping[object, str] = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_FINISH_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}
_FILTERED = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR")
_FAILED = ("NO_IMAGE", "IMAGE_OTHER", "MISSING_THOUGHT_SIGNATURE")
_PLAIN_PART = ("text", "thoughtSignature", "thought")
_MORE_IN_A_CANDIDATE = ("groundingMetadata", "citationMetadata", "urlContextMetadata", "logprobsResult")


class Contents:
    """Renders prompts as requests of generateContent, and reads its replies."""

    def __init__(self) -> None:
        self._tail = SharedTail(_tail)

    def unsupported_in(self, prompt: Prompt) -> str | None:
        """Return the part of the prompt that the API cannot express, if there is one."""
        if (reason := unsupported_param(prompt.params, _UNSUPPORTED, "generateContent")) is not None:
            return reason
        return next((reason for part in prompt.parts if (reason := _unsupported_media(part)) is not None), None)

    def render(self, prompt: Prompt) -> bytes:
        """Return a body. Parts that the next prompt shares with the last one are not encoded again."""
        tail = self._tail.of(prompt)
        if (reason := self.unsupported_in(prompt)) is not None:
            raise UnsupportedError(reason)
        text = b'{"text":%b}' % orjson.dumps(prompt.text)
        parts = b",".join([*(orjson.dumps(_media_part(part)) for part in prompt.parts), text])
        return b'{"contents":[{"role":"user","parts":[%b]}]%b' % (parts, tail)

    def read_answer(self, reply: Reply) -> Answer | ReplyError:
        """Return the answer in a 2xx reply, or its error."""
        try:
            data = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            from llmblast.providers.gemini_streams import join_contents  # noqa: PLC0415 -- at the first such reply
            from llmblast.providers.lenient_json import read_repaired_answer  # noqa: PLC0415

            return read_repaired_answer(reply, read_data, join_contents)
        return read_data(reply.status, data)


def _tail(prompt: Prompt) -> bytes:
    """Return a body from the end of its contents on."""
    system = prompt.system
    members: dict[str, object] = {"systemInstruction": {"parts": [{"text": system}]}} if system else {}
    config: dict[str, object] = {}
    for name, value in with_schema(prompt.params, prompt.schema, "gemini.generate").items():
        if value is None or name in _UNSUPPORTED:
            continue
        if (translate := _TRANSLATIONS.get(name)) is not None:
            config.update(translate(value))
        elif name in ("generationConfig", "generation_config") and isinstance(value, dict):
            config.update(value)
        elif name in ("tools", "tool_choice"):
            members.update(_tools(value) if name == "tools" else _tool_choice(value))
        elif name in _NOT_IN_CONFIG or _in_camel_case(name) in _NOT_IN_CONFIG:
            members[_in_camel_case(name)] = value
        else:
            config[_in_camel_case(name)] = value
    if config:
        members["generationConfig"] = config
    return b"," + orjson.dumps(members)[1:] if members else b"}"


def _in_camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _response_format(value: object) -> Mapping[str, object]:
    kind = value.get("type") if isinstance(value, dict) else value
    if kind not in ("json_object", "json_schema") or not isinstance(value, dict):
        return {} if kind == "text" else {"responseFormat": value}
    named = value.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    as_json: dict[str, object] = {"responseMimeType": "application/json"}
    return as_json if schema is None else {**as_json, "responseJsonSchema": schema}


def _reasoning_effort(value: object) -> Mapping[str, object]:
    budget = _BUDGETS.get(value) if isinstance(value, str) else None
    return {"thinkingConfig": {"thinkingLevel": value} if budget is None else {"thinkingBudget": budget}}


def _tools(value: object) -> Mapping[str, object]:
    """Translate functions; tools in the API's own form stay."""
    if not isinstance(value, list):
        return {"tools": value}
    functions = [
        tool["function"] for tool in value if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    others = [tool for tool in value if not (isinstance(tool, dict) and isinstance(tool.get("function"), dict))]
    declared = [{"functionDeclarations": [_function(function) for function in functions]}] if functions else []
    return {"tools": [*declared, *others]}


def _function(function: Mapping[str, object]) -> Mapping[str, object]:
    about = {"description": function["description"]} if function.get("description") else {}
    schema = {"parametersJsonSchema": function["parameters"]} if function.get("parameters") else {}
    return {"name": function.get("name"), **about, **schema}


def _tool_choice(value: object) -> Mapping[str, object]:
    config: dict[str, object] = {"mode": _CHOICES.get(value, value) if isinstance(value, str) else "ANY"}
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        config["allowedFunctionNames"] = [value["function"].get("name")]
    return {"toolConfig": {"functionCallingConfig": config}}


_TRANSLATIONS: Mapping[str, Callable[[object], Mapping[str, object]]] = {
    "max_tokens": lambda value: {"maxOutputTokens": value},
    "max_completion_tokens": lambda value: {"maxOutputTokens": value},
    "stop": lambda value: {"stopSequences": [value] if isinstance(value, str) else value},
    "n": lambda value: {} if value == 1 else {"candidateCount": value},
    "logprobs": lambda value: {"responseLogprobs": value} if isinstance(value, bool) else {"logprobs": value},
    "top_logprobs": lambda value: {"logprobs": value},
    "response_format": _response_format,
    "reasoning_effort": _reasoning_effort,
    "stream": lambda value: {},
    "user": lambda value: {},
    "metadata": lambda value: {},
}
"""Parameters that have another name or form in OpenAI's API."""


def _unsupported_media(part: Part) -> str | None:
    if not part.url:
        is_office = (
            part.kind == "document" and part.media_type not in _DOCUMENTS and not part.media_type.startswith("text/")
        )
        return f"generateContent takes no {part.media_type}: convert it to PDF or text" if is_office else None
    if _media_type_of(part.url) is not None or host_of(part.url) in _WITH_KNOWN_TYPE:
        return None
    known = ", ".join(_MEDIA_TYPES)
    return f"generateContent needs the type of a file, and the URL ends in none of {known}: name a local file"


def _media_type_of(url: str) -> str | None:
    path = re.split(r"[?#]", url, maxsplit=1)[0].lower()
    return next((media_type for end, media_type in _MEDIA_TYPES.items() if path.endswith(end)), None)


def _media_part(part: Part) -> Mapping[str, object]:
    """Return an image or another file, as data or with its place."""
    if part.url:
        media_type = _media_type_of(part.url)
        return {"fileData": {**({"mimeType": media_type} if media_type else {}), "fileUri": part.url}}
    return {"inlineData": {"mimeType": part.media_type, "data": part.data}}


def read_data(status: int, data: object) -> Answer | ReplyError:
    """Return the answer in a parsed reply, or its error."""
    if type(data) is not dict:
        return _no_answer(status, data) if type(data) is list else ReplyError(_no_object(status), "unusable_reply")
    usage = data.get("usageMetadata")
    usage = usage if type(usage) is dict else None
    answer = None if data.get("error") else _read_candidates(data, usage)
    if answer is None:
        answer = _blocked_prompt(data) or _no_answer(status, data)
    if isinstance(answer, ReplyError):
        answer.has_usage = usage is not None and bool(_answer_tokens(usage))
        return answer
    if usage is not None:
        answer.usage = usage
        answer.prompt_tokens = _sum_of(usage, "promptTokenCount", "toolUsePromptTokenCount")
        answer.completion_tokens = _answer_tokens(usage)
        add_cache_counts(answer, usage)
    if type(model := data.get("modelVersion")) is str:
        answer.model = model
    return answer


def _no_object(status: int) -> str:
    return f"HTTP {status} with JSON that is not an object"


def _sum_of(usage: Mapping[str, object], *names: str) -> int | None:
    counts = [count for name in names if (count := count_of(usage.get(name))) is not None]
    return sum(counts) if counts else None


def _answer_tokens(usage: Mapping[str, object]) -> int:
    return _sum_of(usage, "candidatesTokenCount", "thoughtsTokenCount") or 0


def _no_answer(status: int, data: object) -> ReplyError:
    from llmblast.providers.reply_errors import error_in_success, find_error, is_error  # noqa: PLC0415 -- on errors only

    if isinstance(data, dict) and is_error(data.get("error")):
        return find_error(data)
    missing = ReplyError(f"HTTP {status} without an answer in it", "unusable_reply")
    return error_in_success(data) or missing


def _blocked_prompt(data: Mapping[str, object]) -> ReplyError | None:
    """Return the error of a prompt that a filter has stopped: another attempt ends the same way."""
    feedback = data.get("promptFeedback")
    reason = feedback.get("blockReason") if type(feedback) is dict else None
    if type(feedback) is not dict or type(reason) is not str:
        return None
    told = feedback.get("blockReasonMessage")
    message = f"the prompt was blocked by a content filter: {reason}{f': {told}' if type(told) is str and told else ''}"
    return ReplyError(message, "content_filter", ("contentfilter",), 400, (feedback,))


def _read_candidates(data: Mapping[str, object], usage: Mapping[str, object] | None) -> Answer | ReplyError | None:
    """Return the answer in the first candidate, else in the first of the others that has one; None where none has."""
    candidates = data.get("candidates")
    if type(candidates) is not list:
        return None
    answers = [_read_candidate(candidate, usage) for candidate in candidates if type(candidate) is dict]
    first = next((answer for answer in answers if isinstance(answer, Answer)), answers[0] if answers else None)
    if isinstance(first, Answer) and len(answers) > 1:
        first.says_more = True
    return first


def _read_candidate(candidate: Mapping[str, object], usage: Mapping[str, object] | None) -> Answer | ReplyError | None:
    native = candidate.get("finishReason")
    reason = _finish_reason(native) if type(native) is str else None
    if type(native) is str and (native in _FAILED or failure_in({"finish_reason": native}) is not None):
        told = candidate.get("finishMessage")
        message = f"the generation failed (finishReason {native!r}){f': {told}' if told else ''}"
        return ReplyError(message, "generation_failed")
    content = candidate.get("content")
    parts = content.get("parts") if type(content) is dict else None
    parts = [part for part in parts if type(part) is dict] if type(parts) is list else []
    texts = [text for part in parts if not part.get("thought") and type(text := part.get("text")) is str]
    says_more = not all(map(_is_plain, parts)) or any(candidate.get(name) for name in _MORE_IN_A_CANDIDATE)
    text = "".join(texts) if texts else None
    if not text and not says_more and reason in (None, "stop", "other"):
        if not (usage is not None and _answer_tokens(usage)):
            return ReplyError("the answer is empty, and no token was generated for it", "empty_answer")
        text = ""
    if reason == "stop" and any("functionCall" in part for part in parts):
        reason = "tool_calls"
    answer = Answer(text, reason)
    answer.says_more = says_more or reason == "content_filter"
    return answer


def _finish_reason(native: str) -> str:
    """Return the reason in the words that all providers share; what they have no word for in lower case."""
    if native in _FINISH_REASONS:
        return _FINISH_REASONS[native]
    return "content_filter" if native.removeprefix("IMAGE_") in _FILTERED else native.lower()


def _is_plain(part: Mapping[str, object]) -> bool:
    """Return whether a part holds nothing but its text. A signature alone says nothing to a person."""
    return not part.get("thought") and not any(value for name, value in part.items() if name not in _PLAIN_PART)
