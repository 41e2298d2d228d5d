"""The parameters that each operation has, and which values they take.

Source: https://platform.openai.com/docs/api-reference. What is known there and not done here is rejected by name, so
that no request is answered as if it had not asked.
"""

from collections.abc import Mapping
from typing import Any

from llmblast.mocking.checks import (
    Check,
    anything,
    boolean,
    decimal,
    integer,
    metadata,
    not_supported,
    one_of,
    text,
    texts,
)
from llmblast.mocking.error_replies import BadRequestError, invalid_type, unsupported

MAX_DIMENSIONS = 10_000
MAX_CHOICES = 128
_MAX_INTEGER = 2**63 - 1


def check_parameters(asked: Mapping[str, object], known: Mapping[str, Check]) -> None:
    """Raise BadRequestError for the first parameter that is unknown or has a wrong value; null is no value."""
    unknown = [name for name in asked if name not in known]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        message = f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}"
        raise BadRequestError(message, unknown[0], "unknown_parameter")
    for name, value in asked.items():
        if value is not None:
            known[name](value, name)


def check_stream_options(asked: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether the answer is streamed and whether it tells its usage. Raises BadRequestError."""
    options = asked.get("stream_options")
    is_streamed = bool(asked.get("stream"))
    if options is not None and not is_streamed:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise BadRequestError(message, "stream_options", "invalid_value")
    return is_streamed, bool(options and options.get("include_usage"))


def _stream_options(value: object, name: str) -> None:
    if not isinstance(value, dict):
        raise invalid_type(name, "an object", value)
    known = {"include_usage": boolean, "include_obfuscation": _no_obfuscation}
    for key, entry in value.items():
        if key not in known:
            raise BadRequestError(f"Unknown parameter: '{name}.{key}'.", f"{name}.{key}", "unknown_parameter")
        if entry is not None:
            known[key](entry, f"{name}.{key}")


def _no_obfuscation(value: object, name: str) -> None:
    boolean(value, name)
    not_supported(value, name)


def _modalities(value: object, name: str) -> None:
    texts(2)(value, name)
    if value != ["text"]:
        raise unsupported(name, f"'{name}' other than ['text']")


_MARKS: Mapping[str, Check] = {"id": anything, "custom_id": anything}
"""Not part of the API: clients that send lines of a file as they are leave the line's own name in it."""
_SAMPLING: Mapping[str, Check] = {
    **_MARKS,
    "model": anything,
    "temperature": decimal(0, 2),
    "top_p": decimal(0, 1),
    "frequency_penalty": decimal(-2, 2),
    "presence_penalty": decimal(-2, 2),
    "n": integer(1, MAX_CHOICES),
    "seed": integer(-_MAX_INTEGER - 1, _MAX_INTEGER),
    "stop": texts(4),
    "stream": boolean,
    "stream_options": _stream_options,
    "user": text,
    "logit_bias": not_supported,
}
CHAT: Mapping[str, Check] = {
    **_SAMPLING,
    "messages": anything,
    "max_tokens": integer(1, _MAX_INTEGER),
    "max_completion_tokens": integer(1, _MAX_INTEGER),
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "tools": anything,
    "tool_choice": anything,
    "parallel_tool_calls": boolean,
    "functions": anything,
    "function_call": anything,
    "response_format": anything,
    "metadata": metadata,
    "store": boolean,
    "service_tier": one_of("auto", "default", "flex", "scale", "priority"),
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": one_of("low", "medium", "high"),
    "prompt_cache_key": text,
    "prompt_cache_retention": one_of("in-memory", "24h"),
    "safety_identifier": text,
    "modalities": _modalities,
    "audio": not_supported,
    "prediction": not_supported,
    "web_search_options": not_supported,
}
COMPLETIONS: Mapping[str, Check] = {
    **_SAMPLING,
    "prompt": anything,
    "max_tokens": integer(0, _MAX_INTEGER),
    "best_of": integer(1, 20),
    "echo": boolean,
    "suffix": text,
    "logprobs": integer(0, 5),
}
EMBEDDINGS: Mapping[str, Check] = {
    **_MARKS,
    "model": anything,
    "input": anything,
    "dimensions": integer(1, MAX_DIMENSIONS),
    "encoding_format": one_of("float", "base64"),
    "user": text,
}
