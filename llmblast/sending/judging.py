"""Judging: find out what one reply means for its request, its endpoint and its limits.

A usable answer needs no verdict. `error_verdicts` judges HTTP errors and replies without an answer; failed sends are
judged here:

| send | action |
|---|---|
| never sent: DNS, refused, TLS, connect timeout | NOT_SENT; other endpoint or later, counts for the breaker |
| a keep-alive connection was closed at once, before one byte came back | RESEND at once, once, not counted |
| broken or timed out after the request went out | RETRY once: the request may be billed |
| larger than the cap, as received or unpacked; headers without end | FAIL, may be billed |
"""

from llmblast.models import Answer, Attempt, Cause, Reply
from llmblast.provider_contract import Provider
from llmblast.sending.verdict import Action, Verdict

MAX_AMBIGUOUS_RETRIES = 1
MAX_STALE_S = 1.0
"""A server that closes a keep-alive connection later than this after a request may have worked on it."""


def judge(attempt: Attempt, reply: Reply, wall_now_s: float, provider: Provider) -> Answer | Verdict:
    """Return the answer in one reply to `attempt`, or the verdict on it. Changes nothing; never raises."""
    if reply.cause is not None:
        return _judge_cause(attempt, reply, reply.cause)
    error = None
    if 200 <= reply.status < 300:
        answer = provider.read_answer(attempt.request, reply)
        if isinstance(answer, Answer):
            return answer
        error = answer
    from llmblast.sending.error_verdicts import judge_error, judge_unanswered  # noqa: PLC0415 -- at the first error

    if error is None:
        return judge_error(reply.status, provider.read_error(reply), reply, wall_now_s, provider)
    return judge_unanswered(attempt, error, reply, wall_now_s, provider)


def _judge_cause(attempt: Attempt, reply: Reply, cause: Cause) -> Verdict:
    if cause is Cause.NOT_SENT:
        return Verdict(Action.NOT_SENT, reply.detail, "not_sent", transient=True)
    if cause is Cause.STALE and not attempt.resent and reply.latency_s < MAX_STALE_S:
        return Verdict(Action.RESEND, reply.detail, "stale_connection", transient=True)
    if cause is Cause.TOO_LARGE:
        return Verdict(Action.FAIL, reply.detail, "reply_too_large", was_used=True)
    retried_enough = attempt.ambiguous_sends >= MAX_AMBIGUOUS_RETRIES
    return Verdict(
        Action.FAIL if retried_enough else Action.RETRY,
        reply.detail,
        "timeout" if cause is Cause.TIMED_OUT else "connection_broken",
        transient=True,
        was_used=True,
    )
