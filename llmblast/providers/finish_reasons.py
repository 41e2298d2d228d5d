"""Finish reasons: find out from a choice why the model stopped.

`stop`, `length`, `tool_calls` and `content_filter` are OpenAI's. Other providers have other names:

| names | provider |
|---|---|
| `abort`, `error` | vLLM, SGLang (also as `{"type": "abort", "message": ...}`), OpenRouter, Mistral |
| `cancelled`, `time_limit` | IBM watsonx |
| `network_error`, `sensitive` | Zhipu |
| `insufficient_system_resource` | DeepSeek |
| `SAFETY`, `PROHIBITED_CONTENT`, `BLOCKLIST`, `SPII`, `RECITATION`, `MALFORMED_FUNCTION_CALL` | Gemini |
| `content_filter: PROHIBITED_CONTENT`, `function_call_filter: MALFORMED_FUNCTION_CALL` | Gemini's OpenAI endpoint |
| `content_filtered`, `guardrail_intervened`, `refusal`, `model_context_window_exceeded` | Bedrock, Anthropic |
| `max_tokens`, `model_length`, `token_limit` | Cohere, Mistral, watsonx |

Sources: the API references of those providers, OpenRouter's list of standardised reasons, LiteLLM's
`map_finish_reason`, and `_FINISHED_REASON_MAP` in vLLM's vllm/v1/request.py.
"""

import re

_FILTERED = (
    r"content_?filter|safety|prohibited|blocklist|blocked|recitation|spii|sensitive|guardrail|moderation|toxic|refusal"
)
_CUT_OFF = r"length|max_|model_(?:length|context)|token_limit|time_limit|context_(?:length|window)"
_FAILED = (
    r"error|abort|cancel|fail|interrupt|timeout|timed_out|overload|rate_?limit|insufficient_system_resource"
    r"|\w+_error\b|(?:function_call_filter: *)?(?:malformed_|unexpected_tool_call|too_many_tool_calls)"
)
_REFUSAL = rb'"refusal"\s*:\s*"'
_UNSPECIFIC = (None, "stop")


def is_flagged(finish_reason: str | None) -> bool:
    """Return whether an answer was cut off at a limit or stopped by a filter."""
    if finish_reason is None or finish_reason in ("stop", "tool_calls"):
        return False
    reason = finish_reason.lower()
    return re.search(_FILTERED, reason) is not None or re.match(_CUT_OFF, reason) is not None


def is_filtered(finish_reason: str | None) -> bool:
    """Return whether a filter stopped an answer, or the model refused to answer."""
    if finish_reason is None or finish_reason in ("stop", "tool_calls", "length"):
        return False
    return re.search(_FILTERED, finish_reason.lower()) is not None


def says_refusal(body: bytes) -> bool:
    """Return whether a reply without a text says that the model refuses, as OpenAI's do in a member of the message."""
    return re.search(_REFUSAL, body) is not None


def failure_in(choice: dict[str, object]) -> str | None:
    """Return the reason why a generation failed or was aborted, so that its text is no answer; else None."""
    reason = choice.get("finish_reason")
    if type(reason) is dict:
        reason = reason.get("type")
    if type(reason) is str and reason != "stop" and _is_failure(reason):
        return reason
    if choice.get("error"):
        return "error"
    native = choice.get("native_finish_reason")
    return native if reason in _UNSPECIFIC and type(native) is str and _is_failure(native) else None


def _is_failure(reason: str) -> bool:
    return not is_flagged(reason) and re.match(_FAILED, reason.lower()) is not None
