"""Retry-After: the wait before the next request, in all forms that providers send.

RFC 9110 section 10.2.3 has whole seconds or an HTTP date; providers also send fractions, Unix times, and
`retry-after-ms` (Azure OpenAI, OpenAI). LiteLLM's proxy hands on its provider's headers as `llm_provider-NAME`, and
names the wait for a limit of its own models like that, too. A value that cannot be parsed counts as absent: the parser
never raises.
"""

from math import isfinite

from llmblast.http_time import bounded_wait_s, unix_time_from, unix_time_of, until_s
from llmblast.models import Reply

_PROXIED = b"llm_provider-"


def retry_after_s(reply: Reply, wall_now_s: float) -> float | None:
    """Return the seconds to wait, 0 or more; None where the provider names none. `wall_now_s` is Unix time."""
    own_s = _wait_s(reply, b"", wall_now_s)
    return _wait_s(reply, _PROXIED, wall_now_s) if own_s is None else own_s


def _wait_s(reply: Reply, prefix: bytes, wall_now_s: float) -> float | None:
    value = reply.header(prefix + b"retry-after-ms")
    if value is not None and (milliseconds := _number(value)) is not None:
        return bounded_wait_s(milliseconds / 1000)
    value = reply.header(prefix + b"retry-after")
    if value is None:
        return None
    seconds = _number(value)
    moment_s = unix_time_of(value) if seconds is None else unix_time_from(seconds)
    if moment_s is not None:
        return until_s(moment_s, reply, wall_now_s)
    return None if seconds is None else bounded_wait_s(seconds)


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) else None
