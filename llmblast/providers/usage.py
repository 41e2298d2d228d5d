"""Usage: read the counts of tokens in a reply."""

from collections.abc import Mapping


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
