"""Prompt starts: where the prompt begins in a body, as the caches of providers see it: tools, system message, messages.

Sources: https://platform.openai.com/docs/guides/prompt-caching, https://docs.anthropic.com/en/docs/build-with-claude/
prompt-caching, https://docs.vllm.ai/en/latest/features/automatic_prefix_caching.html
"""

import re
from collections.abc import Mapping
from typing import Final

from llmblast.models import Request

_MESSAGES: Final = b'{"messages":['
_FRONT_BYTES: Final = 512
"""So far from its start a body may have other members before the prompt, such as a model."""
_FIRST: Final = re.compile(
    rb'"(?:system|systemInstruction|system_instruction|instructions|tools|messages|input|prompt|contents)"\s*:'
)
SYSTEM_BEHIND: Final[Mapping[str, bytes]] = {
    "anthropic": b'"system":',
    "bedrock": b'"system":',
    "gemini": b'"systemInstruction":',
    "vertex-anthropic": b'"system":',
    "vertex": b'"systemInstruction":',
    "openai-responses": b'"instructions":',
}
"""Kinds of providers whose bodies may have the system message behind the user's, with its name: it counts first."""


def front_of(request: Request) -> int:
    """Return where in its body the prompt begins: parameters that stand before it count for nothing."""
    body = request.body
    if body.startswith(_MESSAGES):
        return 0
    first = _FIRST.search(body, 0, _FRONT_BYTES)
    return 0 if first is None else first.start()


def with_system_first(request: Request) -> bytes:
    """Return the body with the system message before the others, where it stands behind them."""
    body, name = request.body, SYSTEM_BEHIND.get(request.kind)
    at = -1 if name is None else body.rfind(name)
    return body if at < 0 else body[at:] + body[:at]
