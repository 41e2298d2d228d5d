"""Usage: read the counts of tokens in a reply."""

from collections.abc import Mapping
from typing import Final

from llmblast.models import Answer

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
_WRITTEN: Final = ("cache_creation_input_tokens", "cacheWriteInputTokens")
"""Anthropic, LiteLLM; Bedrock."""
WRITE_SURCHARGE: Final = 0.25
"""Tokens that a request adds to the cache cost so much more than others, where the provider tells their number:
https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing
"""
HOUR_WRITE_SURCHARGE: Final = 1.0
"""The same for those that stay for an hour instead of five minutes."""


def add_cache_counts(answer: Answer, usage: Mapping[str, object]) -> None:
    """Add to an answer how many tokens the provider had in its cache, and what adding others to it costs."""
    answer.cached_tokens = cached_in(usage)
    answer.write_surcharge = write_surcharge_in(usage)


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


def write_surcharge_in(usage: Mapping[str, object]) -> float:
    """Return what adding tokens to the cache costs beyond the price of the prompt, in prompt tokens."""
    for name in _WRITTEN:
        if written := count_of(usage.get(name)):
            for_an_hour = min(_written_for_an_hour(usage), written)
            return for_an_hour * HOUR_WRITE_SURCHARGE + (written - for_an_hour) * WRITE_SURCHARGE
    for name in _CACHED_IN:  # newer models of OpenAI; OpenRouter
        details = usage.get(name)
        if type(details) is dict and (written := count_of(details.get("cache_write_tokens"))):
            return written * WRITE_SURCHARGE
    return 0.0


def _written_for_an_hour(usage: Mapping[str, object]) -> int:
    """Return the tokens that stay in the cache for an hour: Anthropic; Bedrock."""
    creation, details = usage.get("cache_creation"), usage.get("cacheDetails")
    if type(creation) is dict:
        return count_of(creation.get("ephemeral_1h_input_tokens")) or 0
    entries = [entry for entry in details if type(entry) is dict] if type(details) is list else []
    return sum(count_of(entry.get("inputTokens")) or 0 for entry in entries if entry.get("ttl") == "1h")


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
