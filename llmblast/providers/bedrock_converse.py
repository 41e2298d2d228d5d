"""Amazon Bedrock's Converse API: render prompts and read replies.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
/API_runtime_ContentBlock.html, and botocore's model of the service.
"""

from collections.abc import Callable, Mapping

import orjson

from llmblast.models import Answer, Part, Prompt, Reply, ReplyError
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.finish_reasons import failure_in
from llmblast.providers.rendering import SharedTail
from llmblast.providers.structured_outputs import with_schema
from llmblast.providers.usage import add_cache_counts, count_of, has_usage

_FORMATS = {
    "image/png": ("image", "png"),
    "image/jpeg": ("image", "jpeg"),
    "image/jpg": ("image", "jpeg"),
    "image/gif": ("image", "gif"),
    "image/webp": ("image", "webp"),
    "application/pdf": ("document", "pdf"),
    "text/plain": ("document", "txt"),
    "text/markdown": ("document", "md"),
    "text/html": ("document", "html"),
    "text/csv": ("document", "csv"),
    "application/msword": ("document", "doc"),
    "application/vnd.ms-excel": ("document", "xls"),
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ("document", "docx"),
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ("document", "xlsx"),
    "video/mp4": ("video", "mp4"),
    "video/webm": ("video", "webm"),
    "video/quicktime": ("video", "mov"),
    "audio/mpeg": ("audio", "mp3"),
    "audio/wav": ("audio", "wav"),
    "audio/flac": ("audio", "flac"),
}
"""Kind of block and format by media type."""
_UNSUPPORTED = (
    "n",
    "seed",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "parallel_tool_calls",
)
"""Parameters of OpenAI's API that change an answer and have no equivalent here."""
_MEMBERS = frozenset(
    {
        "toolConfig",
        "guardrailConfig",
        "additionalModelRequestFields",
        "additionalModelResponseFieldPaths",
        "promptVariables",
        "requestMetadata",
        "performanceConfig",
        "serviceTier",
        "outputConfig",
    }
)
"""Members of a request; parameters with other names are the model's own, `additionalModelRequestFields`."""
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_PROMPT_COUNTS = ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
_MORE = ("trace", "additionalModelResponseFields")


class Converse:
    """Renders prompts as requests of the Converse API, and reads its replies."""

    def __init__(self) -> None:
        self._tail = SharedTail(_tail)

    def unsupported_in(self, prompt: Prompt) -> str | None:
        """Return the part of the prompt that the API cannot express, if there is one."""
        for name in _UNSUPPORTED:
            value = prompt.params.get(name)
            if value is not None and value is not False and not (name == "n" and value == 1):
                return f'the Converse API has no parameter like "{name}": take it out'
        wanted = prompt.params.get("response_format")
        if isinstance(wanted, dict) and wanted.get("type") not in ("text", "json_schema"):
            return 'the Converse API takes a "response_format" with a json_schema only: name one, or take it out'
        return next((reason for part in prompt.parts if (reason := _unsupported_media(part)) is not None), None)

    def render(self, prompt: Prompt) -> bytes:
        """Return a body. Parts that the next prompt shares with the last one are not encoded again."""
        tail = self._tail.of(prompt)
        if (reason := self.unsupported_in(prompt)) is not None:
            raise UnsupportedError(reason)
        text = b'{"text":%b}' % orjson.dumps(prompt.text)
        media = (orjson.dumps(_media_part(index, part)) for index, part in enumerate(prompt.parts, 1))
        return b'{"messages":[{"role":"user","content":[%b]}]%b' % (b",".join([*media, text]), tail)

    def read_answer(self, reply: Reply) -> Answer | ReplyError:
        """Return the answer in a 2xx reply, or its error."""
        try:
            data = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            from llmblast.providers.lenient_json import read_repaired_answer  # noqa: PLC0415 -- at the first such reply

            return read_repaired_answer(reply, _read_data)
        return _read_data(reply.status, data)


def _tail(prompt: Prompt) -> bytes:
    """Return a body from the end of its messages on."""
    params = with_schema(prompt.params, prompt.schema, "bedrock.converse")
    mark = [{"cachePoint": {"type": "default"}}] if prompt.caches_system else []
    members: dict[str, object] = {"system": [{"text": prompt.system}, *mark]} if prompt.system else {}
    config: dict[str, object] = {}
    additional: dict[str, object] = {}
    for name, value in params.items():
        if value is None or name in _UNSUPPORTED or name in ("stream", "user", "store"):
            continue
        if name in _CONFIG:
            config.update(_CONFIG[name](value))
        elif name == "inferenceConfig" and isinstance(value, dict):
            config.update(value)
        elif name in _TRANSLATIONS:
            members.update(_merged(members, _TRANSLATIONS[name](value)))
        elif name in _MEMBERS:
            members.update(_merged(members, {name: value}))
        else:
            additional[name] = value
    if params.get("tool_choice") == "none":  # the API has no word for it, and offers the tools that are named
        members.pop("toolConfig", None)
    if config:
        members["inferenceConfig"] = config
    if additional:
        members.update(_merged(members, {"additionalModelRequestFields": additional}))
    return b"," + orjson.dumps(members)[1:] if members else b"}"


def _merged(members: Mapping[str, object], more: Mapping[str, object]) -> Mapping[str, object]:
    """Return `more` with the objects in it joined with those of the same name in `members`."""
    merged = {}
    for name, value in more.items():
        before = members.get(name)
        merged[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _tools(value: object) -> Mapping[str, object]:
    """Translate functions; tools in the API's own form stay."""
    return {"toolConfig": {"tools": [_tool(tool) for tool in value] if isinstance(value, list) else value}}


def _tool(tool: object) -> object:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    about = {"description": function["description"]} if function.get("description") else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"toolSpec": {"name": function.get("name"), **about, "inputSchema": {"json": schema}}}


def _tool_choice(value: object) -> Mapping[str, object]:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        return {"toolConfig": {"toolChoice": {"tool": {"name": value["function"].get("name")}}}}
    kind = {"auto": "auto", "required": "any"}.get(value) if isinstance(value, str) else None
    return {"toolConfig": {"toolChoice": value if kind is None else {kind: {}}}}


def _response_format(value: object) -> Mapping[str, object]:
    """Translate a JSON schema, which the API takes as a text."""
    named = value.get("json_schema") if isinstance(value, dict) else None
    if not isinstance(named, dict):
        return {}
    schema = {"schema": orjson.dumps(named.get("schema")).decode()}
    about = {name: named[name] for name in ("name", "description") if named.get(name)}
    return {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {**schema, **about}}}}}


_CONFIG: Mapping[str, Callable[[object], Mapping[str, object]]] = {
    "max_tokens": lambda value: {"maxTokens": value},
    "max_completion_tokens": lambda value: {"maxTokens": value},
    "temperature": lambda value: {"temperature": value},
    "top_p": lambda value: {"topP": value},
    "stop": lambda value: {"stopSequences": [value] if isinstance(value, str) else value},
    "stop_sequences": lambda value: {"stopSequences": value},
}
_TRANSLATIONS: Mapping[str, Callable[[object], Mapping[str, object]]] = {
    "tools": _tools,
    "tool_choice": _tool_choice,
    "response_format": _response_format,
    "metadata": lambda value: {"requestMetadata": value},
}
"""Parameters that have another name or form in OpenAI's API."""


def _unsupported_media(part: Part) -> str | None:
    if part.url:
        return "the Converse API takes no URLs: name a file below --media-root, or write data:image/png;base64,..."
    if part.media_type in _FORMATS:
        return None
    return f"the Converse API takes no {part.media_type}: convert it to one of {', '.join(_FORMATS)}"


def _media_part(index: int, part: Part) -> Mapping[str, object]:
    """Return an image or another file; a document must have a name."""
    kind, its_format = _FORMATS[part.media_type]
    name = {"name": f"document {index}"} if kind == "document" else {}
    return {kind: {"format": its_format, **name, "source": {"bytes": part.data}}}


def _read_data(status: int, data: object) -> Answer | ReplyError:
    if type(data) is not dict:
        return ReplyError(f"HTTP {status} with JSON that is not an object", "unusable_reply")
    usage = data.get("usage")
    usage = usage if type(usage) is dict else None
    answer = _read_message(data, usage)
    if answer is None:
        answer = _no_answer(status, data)
    if isinstance(answer, ReplyError):
        answer.has_usage = has_usage(data)
    elif usage is not None:
        answer.usage = usage
        counts = [count for name in _PROMPT_COUNTS if (count := count_of(usage.get(name))) is not None]
        answer.prompt_tokens = sum(counts) if counts else None
        add_cache_counts(answer, usage)
        answer.completion_tokens = count_of(usage.get("outputTokens")) or 0
    return answer


def _no_answer(status: int, data: Mapping[str, object]) -> ReplyError:
    from llmblast.providers.reply_errors import error_in_success  # noqa: PLC0415 -- on errors only

    return error_in_success(data) or ReplyError(f"HTTP {status} without an answer in it", "unusable_reply")


def _read_message(data: Mapping[str, object], usage: Mapping[str, object] | None) -> Answer | ReplyError | None:
    """Return the joined texts of a message; None where there is no message."""
    output = data.get("output")
    message = output.get("message") if type(output) is dict else None
    blocks = message.get("content") if type(message) is dict else None
    if type(blocks) is not list:
        return None
    native = data.get("stopReason")
    if type(native) is str and failure_in({"finish_reason": native}) is not None:
        return ReplyError(f"the generation failed (stopReason {native!r})", "generation_failed")
    reason = _FINISH_REASONS.get(native, native) if type(native) is str else None
    blocks = [block for block in blocks if type(block) is dict]
    texts = [text for block in blocks if type(text := block.get("text")) is str]
    is_plain = all(len(block) == 1 and "text" in block for block in blocks)
    if not "".join(texts) and is_plain and reason in (None, "stop"):
        if not (usage is not None and count_of(usage.get("outputTokens"))):
            return ReplyError("the answer is empty, and no token was generated for it", "empty_answer")
        texts = [""]
    answer = Answer("".join(texts) if texts else None, reason)
    answer.says_more = not is_plain or any(data.get(name) for name in _MORE)
    return answer
