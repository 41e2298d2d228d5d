"""Amazon Bedrock's Converse API as the mock provider speaks it: requests and answers.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmblast.mocking.checks import Check, decimal, integer, texts
from llmblast.mocking.choices import Maker
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.response_format import Format
from llmblast.mocking.structured import Place
from llmblast.mocking.tools import Demand, read_demand
from llmblast.mocking.wording import Writer

MAX_STOPS = 2500
_IMAGE_TOKENS = 1398
_LATENCY_MS = 50
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
_MEMBERS = frozenset(
    {
        *("messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields"),
        *("additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "promptVariables"),
        *("serviceTier", "outputConfig", "model"),
    }
)
_CONFIG: Mapping[str, Check] = {
    "maxTokens": integer(1),
    "temperature": decimal(0, 1),
    "topP": decimal(0, 1),
    "stopSequences": texts(MAX_STOPS),
}
_MEDIA = ("image", "document", "video", "audio")
_OTHER_BLOCKS = ("toolUse", "toolResult", "cachePoint", "guardContent", "reasoningContent")


class ConverseRequest:
    """One request whose members were checked; raises BadRequestError for one that is not valid."""

    def __init__(self, asked: Mapping[str, Any], writer: Writer, make_id: Callable[[str], str]) -> None:
        _check(asked)
        config = asked.get("inferenceConfig") or {}
        self.cap: int | None = config.get("maxTokens")
        prompt, self.prompt_tokens = _read_messages(asked)
        maker = Maker(writer, prompt, config.get("stopSequences") or [], self.cap)
        demand, wanted = _demand(asked), _format(asked.get("outputConfig"))
        if demand is not None:
            self.choice = maker.call(demand, make_id("tooluse_"), b"")
        else:
            self.choice = maker.say(b"") if wanted is None else maker.say_json(wanted, b"")

    @property
    def text(self) -> str | None:
        """The text of the answer; None for a call."""
        return None if self.choice.call else self.choice.text

    def whole(self) -> bytes:
        """Return the body of a reply."""
        said = len(self.choice.pieces)
        usage = {
            "inputTokens": self.prompt_tokens,
            "outputTokens": said,
            "totalTokens": self.prompt_tokens + said,
        }
        return orjson.dumps(
            {
                "metrics": {"latencyMs": _LATENCY_MS},
                "output": {"message": {"content": [self._block()], "role": "assistant"}},
                "stopReason": _STOP_REASONS.get(self.choice.finish_reason, "end_turn"),
                "usage": usage,
            }
        )

    def _block(self) -> dict[str, object]:
        call = self.choice.call
        if call is None:
            return {"text": self.choice.text}
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:  # cut short by maxTokens
            arguments = {}
        return {"toolUse": {"toolUseId": call.call_id, "name": call.name, "input": arguments}}


def _format(given: Any) -> Format | None:
    """Return the form that `outputConfig` asks for; its schema is a text with JSON."""
    try:
        schema = orjson.loads(given["textFormat"]["structure"]["jsonSchema"]["schema"])
    except (KeyError, TypeError, orjson.JSONDecodeError):
        return None
    return Format(schema, Place("outputConfig", "outputConfig"))


def _check(asked: Mapping[str, Any]) -> None:
    for name in asked:
        if name not in _MEMBERS:
            raise BadRequestError(f"The provided request is not valid: unknown member {name}")
    config = asked.get("inferenceConfig") or {}
    if not isinstance(config, dict):
        raise BadRequestError("The value at inferenceConfig is not an object.")
    for name, value in config.items():
        if name not in _CONFIG:
            raise BadRequestError(f"The provided request is not valid: unknown member inferenceConfig.{name}")
        _CONFIG[name](value, f"inferenceConfig.{name}")


def _read_messages(asked: Mapping[str, Any]) -> tuple[str, int]:
    """Return the last message's text, and the prompt tokens of all messages and of the system prompt."""
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("The value at messages is empty. Add values to the messages object and try again.")
    said, media = "", 0
    letters = len(_content(asked["system"], "system")[0]) if asked.get("system") else 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise BadRequestError(f"The value at messages.{index}.role is not valid: user or assistant")
        said, more = _content(message.get("content"), f"messages.{index}.content")
        letters, media = letters + len(said), media + more
    return said, max(1, letters // BYTES_PER_TOKEN + media * _IMAGE_TOKENS)


def _content(content: object, place: str) -> tuple[str, int]:
    """Return the text of a content and how many files it has."""
    if not isinstance(content, list) or not content:
        raise BadRequestError(f"The content field in {place} is empty. Add a ContentBlock object and try again.")
    said, media = [], 0
    for block in content:
        kinds = list(block) if isinstance(block, dict) else []
        if len(kinds) != 1:
            raise BadRequestError(f"A ContentBlock in {place} must have exactly one member.")
        if kinds[0] == "text" and isinstance(block["text"], str):
            said.append(block["text"])
        elif kinds[0] in _MEDIA:
            media += 1
        elif kinds[0] not in _OTHER_BLOCKS:
            raise BadRequestError(f"The ContentBlock in {place} has the unknown member {kinds[0]}.")
    return " ".join(said), media


def _demand(asked: Mapping[str, Any]) -> Demand | None:
    """Return the tool that has to be used; None where an answer in words will do."""
    config = asked.get("toolConfig")
    choice = config.get("toolChoice") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(choice, dict) or not ("any" in choice or "tool" in choice):
        return None
    specs = [tool["toolSpec"] for tool in config.get("tools") or () if isinstance(tool, dict) and "toolSpec" in tool]
    functions = [
        {
            "type": "function",
            "function": {"name": spec.get("name"), "parameters": (spec.get("inputSchema") or {}).get("json")},
        }
        for spec in specs
    ]
    named = choice.get("tool")
    wanted: object = "required"
    if isinstance(named, dict):
        wanted = {"type": "function", "function": {"name": named.get("name")}}
    return read_demand({"tools": functions, "tool_choice": wanted})
