"""Dialects of raw bodies with `messages`: distinguish OpenAI's chat API from Anthropic's Messages API.

Most bodies have a member that only one of the two APIs has; other bodies count as chat where any endpoint speaks it.
"""

from collections.abc import Iterator, Mapping

CHAT = "openai.chat"
MESSAGES = "anthropic.messages"
_ONLY_IN_MESSAGES = frozenset(
    {"system", "stop_sequences", "thinking", "mcp_servers", "container", "cache_control", "output_config"}
)
_ONLY_IN_CHAT = frozenset(
    {
        "n",
        "seed",
        "stop",
        "max_completion_tokens",
        "response_format",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
        "functions",
        "stream_options",
    }
)
_CHAT_ROLES = ("system", "developer", "tool", "function")
_MESSAGES_PARTS = ("tool_use", "tool_result", "document", "image", "thinking", "redacted_thinking", "search_result")
_CHAT_PARTS = ("image_url", "input_audio", "file", "refusal", "video_url")


def dialect_of(body: Mapping[str, object], default: str) -> str:
    """Return the dialect of a body with `messages`, `default` where it fits both dialects."""
    if not _ONLY_IN_MESSAGES.isdisjoint(body):
        return MESSAGES
    if not _ONLY_IN_CHAT.isdisjoint(body):
        return CHAT
    return next(_shown_by(body), default)


def _shown_by(body: Mapping[str, object]) -> Iterator[str]:
    """Yield the dialects to which tools, roles and parts of messages belong."""
    for tool in _objects(body.get("tools")):
        if "input_schema" in tool:
            yield MESSAGES
        elif "function" in tool:
            yield CHAT
    for message in _objects(body.get("messages")):
        if message.get("role") in _CHAT_ROLES or message.get("tool_calls"):
            yield CHAT
        for part in _objects(message.get("content")):
            if part.get("type") in _MESSAGES_PARTS:
                yield MESSAGES
            elif part.get("type") in _CHAT_PARTS:
                yield CHAT


def _objects(values: object) -> list[dict[str, object]]:
    return [value for value in values if type(value) is dict] if type(values) is list else []
