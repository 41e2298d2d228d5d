"""Read the answer in the choices of a chat completion, or of a completion."""

from collections.abc import Sequence
from typing import Final

from llmblast.models import Answer, ReplyError
from llmblast.providers.finish_reasons import failure_in, is_flagged
from llmblast.providers.on_demand import find_error
from llmblast.providers.usage import PLAIN_COUNTS, add_cache_counts, count_of, was_generated

_TEXT_PARTS: Final = ("text", "output_text", None)
_PLAIN_PART: Final = ("type", "text")
_PLAIN_MESSAGE: Final = ("role", "content")
_EMPTY_TEXT: Final = "the answer is empty, and no token was generated for it"
_MORE_IN_A_MESSAGE: Final = (
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
_CALLS: Final = ("tool_calls", "function_call")


def read_first_choice(data: dict[str, object]) -> Answer | ReplyError | None:
    """Return the answer in the first choice, else in the first of the others that has one; None where none has."""
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


def _read_choice(choice: dict[str, object], data: dict[str, object]) -> Answer | ReplyError | None:
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


def add_usage(answer: Answer, data: dict[str, object]) -> Answer:
    """Add the model of the reply and its counts of tokens to the answer."""
    usage = data.get("usage")
    if type(usage) is dict:
        answer.usage = usage
        answer.prompt_tokens = count_of(usage.get("prompt_tokens", usage.get("input_tokens")))
        answer.completion_tokens = count_of(usage.get("completion_tokens", usage.get("output_tokens"))) or 0
        if len(usage) > PLAIN_COUNTS:
            add_cache_counts(answer, usage)
    model = data.get("model")
    if type(model) is str:
        answer.model = model
    return answer


def _failed_generation(choice: dict[str, object], reason: str) -> ReplyError:
    """Return the error of a generation that failed, with its status unless that is 5xx.

    A 5xx is judged like other unusable replies, since a part of the answer may have been paid for.
    """
    details = choice.get("finish_reason")
    error = find_error(choice if choice.get("error") else details if type(details) is dict else {})
    error.message = f"the generation failed (finish_reason {reason!r}){error.message and f': {error.message}'}"
    error.code = "generation_failed"
    if error.status is not None and error.status >= 500:
        error.status = None
    return error


def _text_in(parts: Sequence[object]) -> tuple[str, bool]:
    """Return the text of a content in parts, and whether it holds more: thinking, images, citations."""
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
