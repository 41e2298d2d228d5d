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
_GEMINI: Final = (b'"systemInstruction":', b'"system_instruction":')
SYSTEM_BEHIND: Final[Mapping[str, tuple[bytes, ...]]] = {
    "anthropic": (b'"system":',),
    "bedrock": (b'"system":',),
    "gemini": _GEMINI,
    "vertex-anthropic": (b'"system":',),
    "vertex": _GEMINI,
    "openai-responses": (b'"instructions":',),
}
"""Kinds of providers whose bodies may have the system message behind the user's, with its names: it counts first."""
_TOOLS: Final = (b'"tools":', b'"toolConfig":')
"""The last one is that of Bedrock, which holds the tools."""
_TAIL_BYTES: Final = 65_536
"""So far from the end of a body tools are looked for."""


def front_of(request: Request) -> int:
    """Return where in its body the prompt begins: parameters that stand before it count for nothing."""
    body = request.body
    if body.startswith(_MESSAGES):
        return 0
    first = _FIRST.search(body, 0, _FRONT_BYTES)
    return 0 if first is None else first.start()


def with_system_first(request: Request) -> bytes:
    """Return the body with the system message before the others, where it stands behind them."""
    body = request.body
    at = max((body.rfind(name) for name in SYSTEM_BEHIND.get(request.kind, ())), default=-1)
    return body if at < 0 else body[at:] + body[:at]


def tools_behind(request: Request) -> bytes:
    """Return the end of a body from the tools on, where they stand behind the prompt: they count before all of it."""
    body = request.body
    at = max(body.rfind(name, -_TAIL_BYTES) for name in _TOOLS)
    return b"" if at < 0 or at <= front_of(request) else body[at:]
