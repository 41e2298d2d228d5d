"""Usage: read the counts of tokens in a reply."""

from collections.abc import Mapping
from typing import Final

PLAIN_COUNTS: Final = 3
"""Members of a usage that says no more than the tokens of prompt, answer and both."""
_CACHED: Final = (
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
    "cacheReadInputTokens",
    "cachedContentTokenCount",
)
"""Moonshot; DeepSeek; Anthropic, LiteLLM; Bedrock; Gemini."""
_CACHED_IN: Final = ("prompt_tokens_details", "input_tokens_details")
"""OpenAI's APIs, and vLLM, Azure, Groq, xAI and others that follow them, have `cached_tokens` in these."""


def cached_in(usage: Mapping[str, object]) -> int:
    """Return how many tokens of the prompt the provider had in its cache; 0 where it says nothing of them."""
    for name in _CACHED_IN:
        details = usage.get(name)
        if type(details) is dict and "cached_tokens" in details:
            return count_of(details["cached_tokens"]) or 0
    for name in _CACHED:
        if cached := count_of(usage.get(name)):
            return cached
    return 0


def has_usage(data: Mapping[str, object]) -> bool:
    """Return whether the usage of a reply counts any token: the request is billed."""
    usage = data.get("usage")
    return type(usage) is dict and any(type(count) is int and count > 0 for count in usage.values())


def was_generated(data: Mapping[str, object]) -> bool:
    """Return whether the usage counts a token beyond the prompt: an empty answer is intended then."""
    usage = data.get("usage")
    if type(usage) is not dict:
        return False
    details = usage.get("completion_tokens_details")
    counts = [usage.get("completion_tokens"), usage.get("output_tokens"), usage.get("reasoning_tokens")]
    counts.append(details.get("reasoning_tokens") if type(details) is dict else None)
    in_all, in_prompt = count_of(usage.get("total_tokens")), count_of(usage.get("prompt_tokens"))
    return any(count_of(count) for count in counts) or (in_all or 0) > (in_prompt or 0) > 0


def count_of(value: object) -> int | None:
    """Return a count of tokens, which some servers write as `5.0`; None for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None
