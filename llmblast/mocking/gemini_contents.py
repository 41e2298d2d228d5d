"""Google's generateContent as the mock provider speaks it: requests and answers.

Source: https://ai.google.dev/api/generate-content. An image counts as the guide to media says: 258 tokens.
"""

import re
from collections.abc import Container, Mapping
from typing import Any

import orjson

from llmblast.mocking.checks import Check, anything, decimal, integer, texts
from llmblast.mocking.choices import Choice, Maker
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.response_format import Format
from llmblast.mocking.streaming import event
from llmblast.mocking.structured import Place
from llmblast.mocking.tools import Demand, read_demand
from llmblast.mocking.wording import Writer, salt_of

MAX_STOPS = 5
_IMAGE_TOKENS = 258
_THOUGHT = "The question asks for a short answer."
_FINISH_REASONS = {"length": "MAX_TOKENS"}
_MEMBERS = frozenset(
    {
        *("model", "contents", "systemInstruction", "generationConfig", "safetySettings", "tools", "toolConfig"),
        *("cachedContent", "labels"),
    }
)
_CONFIG: Mapping[str, Check] = {
    "temperature": decimal(0, 2),
    "topP": decimal(0, 1),
    "topK": integer(1),
    "maxOutputTokens": integer(1),
    "candidateCount": integer(1, 8),
    "stopSequences": texts(MAX_STOPS),
    "seed": anything,
    "presencePenalty": decimal(-2, 2),
    "frequencyPenalty": decimal(-2, 2),
    "responseMimeType": anything,
    "responseSchema": anything,
    "responseJsonSchema": anything,
    "responseModalities": anything,
    "thinkingConfig": anything,
    "mediaResolution": anything,
}
_THINKING = frozenset({"includeThoughts", "thinkingBudget", "thinkingLevel"})


class ContentsRequest:
    """One request whose members were checked; raises BadRequestError for one that is not valid."""

    def __init__(self, asked: Mapping[str, Any], writer: Writer) -> None:
        members = _checked(asked, _MEMBERS, "")
        config = _checked(members.get("generationConfig") or {}, _CONFIG, " at 'generation_config'")
        for name, value in config.items():
            if value is not None:
                _CONFIG[name](value, f"generation_config.{name}")
        self.cap: int | None = config.get("maxOutputTokens")
        prompt, self.prompt_tokens = _read_contents(members)
        maker = Maker(writer, prompt, config.get("stopSequences") or [], self.cap)
        demand, wanted = _demand(members), _format(config)
        salts = [salt_of(config.get("seed"), index) for index in range(config.get("candidateCount") or 1)]
        self.choices = [_choose(maker, demand, wanted, salt) for salt in salts]
        thinking = _checked(config.get("thinkingConfig") or {}, _THINKING, " at 'thinking_config'")
        self._shows_thoughts = thinking.get("includeThoughts") is True

    @property
    def text(self) -> str | None:
        """The text of the first answer; None for a call."""
        return None if self.choices[0].call else self.choices[0].text

    @property
    def answer_tokens(self) -> int:
        return sum(len(choice.pieces) for choice in self.choices) + self._thought_tokens

    @property
    def _thought_tokens(self) -> int:
        return len(_THOUGHT.split()) if self._shows_thoughts else 0

    def whole(self, model: str, response_id: str) -> bytes:
        """Return the body of a reply."""
        said = sum(len(choice.pieces) for choice in self.choices)
        usage: dict[str, object] = {
            "promptTokenCount": self.prompt_tokens,
            "candidatesTokenCount": said,
            "totalTokenCount": self.prompt_tokens + self.answer_tokens,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": self.prompt_tokens}],
        }
        if self._shows_thoughts:
            usage["thoughtsTokenCount"] = self._thought_tokens
        candidates = [self._candidate(index, choice) for index, choice in enumerate(self.choices)]
        reply = {"candidates": candidates, "usageMetadata": usage, "modelVersion": model, "responseId": response_id}
        return orjson.dumps(reply)

    def _candidate(self, index: int, choice: Choice) -> dict[str, object]:
        part: dict[str, object] = {"text": choice.text}
        if choice.call is not None:
            part = {"functionCall": {"name": choice.call.name, "args": _arguments(choice.call.arguments)}}
        thoughts = [{"text": _THOUGHT, "thought": True}] if self._shows_thoughts else []
        reason = _FINISH_REASONS.get(choice.finish_reason, "STOP")
        return {"content": {"parts": [*thoughts, part], "role": "model"}, "finishReason": reason, "index": index}


def events_of(body: bytes) -> tuple[bytes, ...]:
    """Return a reply as a stream, `?alt=sse`: each word of the texts comes alone, and the end with the last one.

    Source: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
    """
    reply = orjson.loads(body)
    parts = [
        (candidate["index"], {**part, **({"text": piece} if piece else {})})
        for candidate in reply["candidates"]
        for part in candidate["content"]["parts"]
        for piece in re.findall(r"\S+\s*|\s+", part.get("text") or "") or [""]
    ]
    told = [{"candidates": [{"content": {"parts": [part], "role": "model"}, "index": at}]} for at, part in parts]
    ends = [
        {"finishReason": candidate["finishReason"], "index": candidate["index"]} for candidate in reply["candidates"]
    ]
    return tuple(event({**reply, "candidates": ends, **more}) for more in (*told, {}))


def _arguments(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # cut short by the limit of tokens
        return {}


def _choose(maker: Maker, demand: Demand | None, wanted: Format | None, salt: bytes) -> Choice:
    if demand is not None:
        return maker.call(demand, "", salt)
    return maker.say(salt) if wanted is None else maker.say_json(wanted, salt)


def _checked(members: Any, known: Container[str], where: str) -> dict[str, Any]:
    """Return the members by their names in camel case; the API takes both spellings, and no unknown name."""
    if not isinstance(members, dict):
        raise BadRequestError(f"Invalid value{where}: expected an object")
    named = {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in members.items()}
    for name in named:
        if name not in known:
            raise BadRequestError(f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')
    return named


def _read_contents(members: Mapping[str, Any]) -> tuple[str, int]:
    """Return the last content's text, and the prompt tokens of all contents and of the system instruction."""
    contents = members.get("contents")
    contents = [contents] if isinstance(contents, dict) else contents
    if not isinstance(contents, list) or not contents:
        raise BadRequestError("* GenerateContentRequest.contents: contents is not specified")
    system = members.get("systemInstruction")
    said, tokens = "", 0 if system is None else len(_parts(system)[0]) // BYTES_PER_TOKEN
    for content in contents:
        if isinstance(content, dict) and content.get("role") not in (None, "user", "model", "function"):
            raise BadRequestError("Please use a valid role: user, model.")
        said, media = _parts(content)
        tokens += len(said) // BYTES_PER_TOKEN + media * _IMAGE_TOKENS
    return said, max(1, tokens)


def _parts(content: object) -> tuple[str, int]:
    """Return the text of a content and how many files it has."""
    parts = content.get("parts") if isinstance(content, dict) else None
    parts = [parts] if isinstance(parts, dict) else parts
    if not isinstance(parts, list) or not parts:
        raise BadRequestError("* GenerateContentRequest.contents.parts: contents.parts must not be empty.")
    texts_in, media = [], 0
    for part in parts:
        if not isinstance(part, dict):
            raise BadRequestError("Invalid value at 'contents.parts': expected an object")
        if isinstance(part.get("text"), str):
            texts_in.append(part["text"])
        elif any(name in part for name in ("inlineData", "inline_data", "fileData", "file_data")):
            media += 1
        elif not any(name in part for name in ("functionCall", "functionResponse", "thought", "executableCode")):
            raise BadRequestError(
                "* GenerateContentRequest.contents.parts.data: required oneof field 'data' is missing"
            )
    return " ".join(texts_in), media


def _format(config: Mapping[str, Any]) -> Format | None:
    if config.get("responseMimeType") != "application/json":
        return None
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    return Format() if schema is None else Format(_in_lower_case(schema), Place("response_schema", "response_schema"))


def _in_lower_case(schema: object) -> object:
    """Return a schema with the types of JSON Schema: Google's own schemas have them in capitals."""
    if isinstance(schema, dict):
        return {
            name: value.lower() if name == "type" and isinstance(value, str) else _in_lower_case(value)
            for name, value in schema.items()
        }
    return [_in_lower_case(item) for item in schema] if isinstance(schema, list) else schema


def _demand(members: Mapping[str, Any]) -> Demand | None:
    """Return the function that has to be used; None where an answer in words will do."""
    tools, config = members.get("tools"), members.get("toolConfig")
    calling = config.get("functionCallingConfig") if isinstance(config, dict) else None
    if not isinstance(tools, list) or not isinstance(calling, dict) or calling.get("mode") != "ANY":
        return None
    functions = [
        {"type": "function", "function": {"name": entry.get("name"), "parameters": _schema_of(entry)}}
        for tool in tools
        if isinstance(tool, dict)
        for entry in tool.get("functionDeclarations") or ()
    ]
    allowed = calling.get("allowedFunctionNames")
    choice: object = {"type": "function", "function": {"name": allowed[0]}} if allowed else "required"
    return read_demand({"tools": functions, "tool_choice": choice})


def _schema_of(function: Mapping[str, Any]) -> object:
    return _in_lower_case(function.get("parametersJsonSchema") or function.get("parameters"))
