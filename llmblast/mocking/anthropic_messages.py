"""Anthropic's Messages API as the mock provider speaks it: requests, answers, streams and errors.

Sources: https://docs.anthropic.com/en/api/messages, /api/messages-streaming, /api/errors. An image counts as the guide
to vision says for a picture of 1024 x 1024: 1398 tokens; a document counts the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from llmblast.mocking.checks import Check, anything, decimal, integer, metadata, text, texts
from llmblast.mocking.choices import Choice, Maker
from llmblast.mocking.error_replies import BadRequestError, invalid_type, missing
from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.response_format import Format
from llmblast.mocking.structured import Place
from llmblast.mocking.tools import Demand, read_demand
from llmblast.mocking.wording import Writer

OPERATION = "messages"
PATH = "/v1/messages"
MAX_STOPS = 8191
_IMAGE_TOKENS = 1398
_SOURCES: Mapping[object, Mapping[str, Sequence[str]]] = {
    "image": {"base64": ("media_type", "data"), "url": ("url",)},
    "document": {"base64": ("media_type", "data"), "url": ("url",), "text": ("media_type", "data")},
}
"""By kind of block: the types of its source, each with the members that it needs."""
_ROLES = ("user", "assistant")
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
_MODES = {"any": "required", "auto": "auto", "none": "none"}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_PARAMETERS: Mapping[str, Check] = {
    "model": text,
    "messages": anything,
    "max_tokens": integer(1),
    "system": anything,
    "metadata": metadata,
    "stop_sequences": texts(MAX_STOPS),
    "stream": anything,
    "temperature": decimal(0, 1),
    "top_p": decimal(0, 1),
    "top_k": integer(0),
    "tools": anything,
    "tool_choice": anything,
    "thinking": anything,
    "service_tier": text,
    "cache_control": anything,
    "output_config": anything,
}


def error_in_its_form(status: int, body: bytes, request_id: str) -> bytes:
    """Return an error in Anthropic's form; a body that is no error in OpenAI's form stays."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})


class MessagesRequest:
    """One request whose members were checked; raises BadRequestError for one that is not valid."""

    def __init__(self, asked: Mapping[str, Any], writer: Writer, make_id: Callable[[str], str]) -> None:
        _check(asked)
        self.cap: int = asked["max_tokens"]
        self.is_streamed = asked.get("stream") is True
        prompt, self.prompt_tokens = _read_messages(asked)
        self._stops: list[str] = asked.get("stop_sequences") or []
        maker = Maker(writer, prompt, self._stops, self.cap)
        demand = _demand(asked)
        wanted = _format(asked)
        if demand is not None:
            self.choice = maker.call(demand, make_id("toolu_"), b"")
        else:
            self.choice = maker.say(b"") if wanted is None else maker.say_json(wanted, b"")
        self._text = maker.writer.write(prompt, self.cap).text if demand is None and wanted is None else ""

    @property
    def text(self) -> str | None:
        """The text of the answer; None for a call."""
        return None if self.choice.call else self.choice.text

    def whole(self, head: Mapping[str, object]) -> bytes:
        """Return the body of a reply that is read whole."""
        reply = {**head, "content": [self._block()], **self._end(), "usage": self._usage(len(self.choice.pieces))}
        return orjson.dumps(reply)

    def events(self, head: Mapping[str, object]) -> tuple[bytes, ...]:
        """Return the events of a streamed reply."""
        start = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage(1)}
        return (
            _event("message_start", message=start),
            *self._block_events(self.choice),
            _event("message_delta", delta=self._end(), usage={"output_tokens": len(self.choice.pieces)}),
            _event("message_stop"),
        )

    def _block(self) -> dict[str, object]:
        call = self.choice.call
        if call is None:
            return {"type": "text", "text": self.choice.text}
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:  # cut short by max_tokens
            arguments = {}
        return {"type": "tool_use", "id": call.call_id, "name": call.name, "input": arguments}

    def _block_events(self, choice: Choice) -> Iterator[bytes]:
        is_text = choice.call is None
        block = {"type": "text", "text": ""} if is_text else {**self._block(), "input": {}}
        yield _event("content_block_start", index=0, content_block=block)
        for piece in choice.pieces:
            delta = {"type": "text_delta", "text": piece}
            if not is_text:
                delta = {"type": "input_json_delta", "partial_json": piece}
            yield _event("content_block_delta", index=0, delta=delta)
        yield _event("content_block_stop", index=0)

    def _end(self) -> dict[str, object]:
        reason = _STOP_REASONS.get(self.choice.finish_reason, "end_turn")
        found = None
        if reason == "end_turn" and self._text:
            rest = self._text.removeprefix(self.choice.text)
            found = next((stop for stop in self._stops if stop and rest.startswith(stop)), None)
        return {"stop_reason": "stop_sequence" if found else reason, "stop_sequence": found}

    def _usage(self, output_tokens: int) -> dict[str, object]:
        return {
            "input_tokens": self.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }


def _event(kind: str, **members: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


def _check(asked: Mapping[str, object]) -> None:
    for name in ("messages", "max_tokens"):
        if asked.get(name) is None:
            raise BadRequestError(f"{name}: Field required", name)
    for name, value in asked.items():
        if name not in _PARAMETERS:
            raise BadRequestError(f"{name}: Extra inputs are not permitted", name)
        if value is not None:
            _PARAMETERS[name](value, name)


def _read_messages(asked: Mapping[str, Any]) -> tuple[str, int]:
    """Return the last message's text, and the prompt tokens of all messages and of the system prompt."""
    messages = asked["messages"]
    if not isinstance(messages, list):
        raise invalid_type("messages", "an array of objects", messages)
    if not messages:
        raise BadRequestError("messages: at least one message is required", "messages")
    said, images = "", 0
    letters = 0 if asked.get("system") is None else len(_content(asked["system"], "system")[0])
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        if not isinstance(message, dict):
            raise invalid_type(place, "an object", message)
        if message.get("role") not in _ROLES:
            raise BadRequestError(f"{place}.role: Input should be 'user' or 'assistant'", f"{place}.role")
        said, more = _content(message.get("content"), f"{place}.content")
        letters, images = letters + len(said), images + more
    return said, max(1, letters // BYTES_PER_TOKEN + images * _IMAGE_TOKENS)


def _content(content: object, place: str) -> tuple[str, int]:
    """Return the text of a content and how many images and documents it has."""
    if content is None:
        raise missing(place)
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        raise invalid_type(place, "a string or an array of objects", content)
    said, images = [], 0
    for index, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            text(block.get("text"), f"{place}.{index}.text")
            said.append(block["text"])
        elif kind in _SOURCES:
            _check_source(block.get("source"), f"{place}.{index}.source", _SOURCES[kind])
            images += 1
        elif kind == "tool_result":
            said.append(_content(block.get("content", ""), f"{place}.{index}.content")[0])
        elif kind not in ("tool_use", "thinking", "redacted_thinking"):
            raise BadRequestError(f"{place}.{index}: Input tag {kind!r} does not match any of the expected tags", place)
    return " ".join(said), images


def _check_source(source: object, place: str, known: Mapping[str, Sequence[str]]) -> None:
    members = known.get(str(source.get("type"))) if isinstance(source, dict) else None
    if members is None or not isinstance(source, dict):
        types = " or ".join(map(repr, known))
        raise BadRequestError(f"{place}: Input should be an object whose type is {types}", place)
    for name in members:
        if not isinstance(source.get(name), str) or not source[name]:
            raise BadRequestError(f"{place}.{name}: Field required", f"{place}.{name}")


def _format(asked: Mapping[str, Any]) -> Format | None:
    """Return the JSON that is asked for; None for plain text. Raises BadRequestError.

    Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs
    """
    config = asked.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    if wanted is None:
        return None
    if (
        not isinstance(wanted, dict)
        or wanted.get("type") != "json_schema"
        or not isinstance(wanted.get("schema"), dict)
    ):
        raise BadRequestError("output_config.format: Input should be a json_schema with a schema", "output_config")
    return Format(wanted["schema"], Place("output_config", "output_config.format"))


def _demand(asked: Mapping[str, Any]) -> Demand | None:
    """Return the tool that has to be used; None where an answer in words will do."""
    tools, choice = asked.get("tools"), asked.get("tool_choice")
    if not isinstance(tools, list) or not isinstance(choice, dict):
        return None
    functions = [
        {"type": "function", "function": {"name": tool.get("name"), "parameters": tool.get("input_schema")}}
        for tool in tools
        if isinstance(tool, dict)
    ]
    wanted: object = _MODES.get(str(choice.get("type")), "auto")
    if choice.get("type") == "tool":
        wanted = {"type": "function", "function": {"name": choice.get("name")}}
    return read_demand({"tools": functions, "tool_choice": wanted})
