"""Answers as chats: any API's answer in the form of a chat API, for records in a batch format.

The replies of OpenAI and Anthropic are translated whole. Of others, the answer, its counts and its calls of tools are
written as a chat completion first. Sources of the calls: ai.google.dev/api/caching#FunctionCall,
docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolUseBlock.html,
platform.openai.com/docs/api-reference/responses/object.
"""

from collections.abc import Iterator, Mapping, Sequence

import orjson

from llmblast.models import Answer
from llmblast.providers.translated_replies import make_chat, translate_reply

_OPENAI = "openai"


def translate_answer(body: bytes, answer: Answer, kind: str) -> bytes:
    """Return the body of a reply as the chat API `kind` has it. A reply without a chat's answer stays as it is."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(data, dict) or "choices" in data or data.get("type") == "message":
        return translate_reply(body, kind)
    if data.get("object") == "response" and kind == _OPENAI:
        return body  # a form of OpenAI's own batches
    calls = [_call(index, *call) for index, call in enumerate(_calls_in(data))]
    if not calls and not isinstance(answer.text, str):
        return body
    try:
        chat = orjson.dumps(_chat_of(data, answer, calls))
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return body
    return translate_reply(chat, kind)


def _chat_of(data: Mapping[str, object], answer: Answer, calls: Sequence[object]) -> dict[str, object]:
    given = data.get("responseId") or data.get("id")
    reply_id = given if isinstance(given, str) else ""
    reason = "tool_calls" if calls and answer.finish_reason in (None, "stop") else answer.finish_reason
    chat = make_chat(answer.text, reason, _usage_of(answer), answer.model, reply_id)
    if calls:
        chat["choices"] = [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None, "tool_calls": calls},
                "logprobs": None,
                "finish_reason": reason,
            }
        ]
    return chat


def _usage_of(answer: Answer) -> dict[str, object] | None:
    if answer.prompt_tokens is None and answer.completion_tokens is None:
        return None
    return {"prompt_tokens": answer.prompt_tokens or 0, "completion_tokens": answer.completion_tokens or 0}


def _call(index: int, call_id: object, name: object, arguments: object) -> dict[str, object]:
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    own_id = call_id if isinstance(call_id, str) and call_id else f"call_{index}"
    return {"id": own_id, "type": "function", "function": {"name": name, "arguments": text}}


def _calls_in(data: Mapping[str, object]) -> Iterator[tuple[object, object, object]]:
    """Yield the id, name and arguments of the calls of tools in a reply of Gemini, Bedrock or the Responses API."""
    for part in _objects_at(data, "candidates", 0, "content", "parts"):
        if isinstance(call := part.get("functionCall"), dict):
            yield call.get("id"), call.get("name"), call.get("args")
    for block in _objects_at(data, "output", "message", "content"):
        if isinstance(call := block.get("toolUse"), dict):
            yield call.get("toolUseId"), call.get("name"), call.get("input")
    for item in _objects_at(data, "output"):
        if item.get("type") == "function_call":
            yield item.get("call_id"), item.get("name"), item.get("arguments")


def _objects_at(value: object, *steps: str | int) -> list[Mapping[str, object]]:
    """Return the objects in the list at a place; none where it is another place."""
    for step in steps:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and len(value) > step else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
