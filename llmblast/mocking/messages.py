"""Chat messages: checks them, and reads the text that is answered and the number of prompt tokens.

Source of the form: https://platform.openai.com/docs/api-reference/chat/create. An image counts as in OpenAI's guide to
vision for a picture of 1024 x 1024: 85 tokens in low detail, 765 otherwise.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llmblast.mocking.checks import text as check_text
from llmblast.mocking.error_replies import BadRequestError, invalid_choice, invalid_type, missing

BYTES_PER_TOKEN = 4
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_PLAIN_ROLES = ("user", "system", "assistant", "developer")
_PLAIN_FIELDS = frozenset({"role", "content"})
_FIELDS = {
    "role",
    "content",
    "name",
    "refusal",
    "audio",
    "annotations",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "reasoning",
    "reasoning_content",
    "provider_specific_fields",
    "parsed",
}
"""With what replies of other providers have in their messages, and clients send back."""
_IMAGE_TOKENS = {"low": 85, "high": 765, "auto": 765}
_AUDIO_FORMATS = ("wav", "mp3")
_FILE_TOKENS = 1000
"""For a file or a sound, whatever is in it."""


def read_messages(messages: object) -> tuple[str, int]:
    """Return the last message's text and the prompt tokens of all. Raises BadRequestError."""
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise invalid_type("messages", "an array of objects", messages)
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        raise BadRequestError(message, "messages", "empty_array")
    text, letters, extra = "", 0, 0
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str) and message.keys() == _PLAIN_FIELDS and message["role"] in _PLAIN_ROLES:
            text = content
        else:
            text, tokens = _read(message, f"messages[{index}]", messages[:index])
            extra += tokens
        letters += len(text)
    return text, max(1, letters // BYTES_PER_TOKEN + extra)


def _read(message: object, place: str, earlier: Iterable[object]) -> tuple[str, int]:
    """Return one message's text and its tokens beyond that."""
    if not isinstance(message, dict):
        raise invalid_type(place, "an object", message)
    for field in message:
        if field not in _FIELDS:
            raise BadRequestError(f"Unknown parameter: '{place}.{field}'.", f"{place}.{field}", "unknown_parameter")
    role = message.get("role")
    if role is None:
        raise missing(f"{place}.role")
    if role not in _ROLES:
        raise invalid_choice(f"{place}.role", role, _ROLES)
    if message.get("name") is not None:
        check_text(message["name"], f"{place}.name")
    elif role == "function":
        raise missing(f"{place}.name")
    if role == "tool":
        _check_call_id(message, place, earlier)
    calls = _call_letters(message, place) if role == "assistant" else None
    if "content" not in message and calls is None:
        raise missing(f"{place}.content")
    text, tokens = _read_content(message.get("content"), f"{place}.content")
    return text, tokens + (calls or 0) // BYTES_PER_TOKEN


def _check_call_id(message: Mapping[str, object], place: str, earlier: Iterable[object]) -> None:
    """Raise BadRequestError for the result of a call that no message before it has made."""
    call_id = message.get("tool_call_id")
    if call_id is None:
        raise missing(f"{place}.tool_call_id")
    check_text(call_id, f"{place}.tool_call_id")
    made = [call for other in earlier if isinstance(other, dict) for call in other.get("tool_calls") or ()]
    if not any(call.get("id") == call_id for call in made):
        text = (
            "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
        )
        raise BadRequestError(text, f"{place}.role", "invalid_value")


def _call_letters(message: Mapping[str, object], place: str) -> int | None:
    """Return how long the names and arguments of a message's calls are; None for a message without calls."""
    calls = message.get("tool_calls")
    function = message.get("function_call")
    if calls is None and function is None:
        return None
    if not isinstance(calls, list | None):
        raise invalid_type(f"{place}.tool_calls", "an array of objects", calls)
    letters = 0
    for index, call in enumerate(calls or ()):
        if not isinstance(call, dict):
            raise invalid_type(f"{place}.tool_calls[{index}]", "an object", call)
        if call.get("id") is None:
            raise missing(f"{place}.tool_calls[{index}].id")
        letters += _function_letters(call.get("function"), f"{place}.tool_calls[{index}].function")
    return letters + (0 if function is None else _function_letters(function, f"{place}.function_call"))


def _function_letters(function: object, place: str) -> int:
    if not isinstance(function, dict):
        raise missing(place) if function is None else invalid_type(place, "an object", function)
    letters = 0
    for field in ("name", "arguments"):
        value = function.get(field)
        if value is None:
            raise missing(f"{place}.{field}")
        check_text(value, f"{place}.{field}")
        letters += len(value)
    return letters


def _read_content(content: object, place: str) -> tuple[str, int]:
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        raise invalid_type(place, "a string or an array of objects", content)
    texts, tokens = [], 0
    for index, part in enumerate(content):
        text, more = _read_part(part, f"{place}[{index}]")
        tokens += more
        if text is not None:
            texts.append(text)
    return " ".join(texts), tokens


def _read_part(part: object, place: str) -> tuple[str | None, int]:
    """Return a part's text, None for one without, and the tokens of an image."""
    if not isinstance(part, dict):
        raise invalid_type(place, "an object", part)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{place}.type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if text is None:
            raise missing(f"{place}.{kind}")
        check_text(text, f"{place}.{kind}")
        return text, 0
    if kind == "image_url":
        return None, _image_tokens(part.get("image_url"), f"{place}.image_url")
    if kind == "input_audio":
        _check_members(part, "input_audio", place, ("data", "format"))
        if part["input_audio"]["format"] not in _AUDIO_FORMATS:
            raise invalid_choice(f"{place}.input_audio.format", part["input_audio"]["format"], _AUDIO_FORMATS)
        return None, _FILE_TOKENS
    if kind == "file":
        _check_members(part, "file", place, ("filename", "file_data"))
        return None, _FILE_TOKENS
    raise invalid_choice(f"{place}.type", kind, ("text", "image_url", "input_audio", "refusal", "file"))


def _check_members(part: Mapping[str, Any], name: str, place: str, members: Iterable[str]) -> None:
    """Check the member `name` of a part, and the texts in it."""
    value = part.get(name)
    if not isinstance(value, dict):
        raise missing(f"{place}.{name}") if value is None else invalid_type(f"{place}.{name}", "an object", value)
    for member in members:
        if value.get(member) is None:
            raise missing(f"{place}.{name}.{member}")
        check_text(value[member], f"{place}.{name}.{member}")


def _image_tokens(image: object, place: str) -> int:
    if image is None:
        raise missing(place)
    if not isinstance(image, dict):
        raise invalid_type(place, "an object", image)
    if image.get("url") is None:
        raise missing(f"{place}.url")
    check_text(image["url"], f"{place}.url")
    detail = image.get("detail") or "auto"
    check_text(detail, f"{place}.detail")
    if detail not in _IMAGE_TOKENS:
        raise invalid_choice(f"{place}.detail", detail, _IMAGE_TOKENS)
    return _IMAGE_TOKENS[detail]
