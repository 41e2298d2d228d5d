"""Verdicts: what a reply means for its request, its endpoint and its limits. One table, read from top to bottom.

| reply | action |
|---|---|
| 2xx with a usable answer | no verdict but the answer |
| 2xx that carries an error with a status of its own | judged as that status |
| 2xx that is no JSON, is empty, has no answer, or carries an error | RETRY twice, then FAIL; the raw body is kept |
| 2xx in a content coding that cannot be taken off | the same, without the body |
| 429 that says the request can never fit | FAIL |
| no quota or money left (402, insufficient_quota), 401, 403 | DISABLE the endpoint; the line stays pending |
| 429, 529, 503 with Retry-After | COOL_DOWN; other endpoint or later, not counted as an attempt |
| 408, 409, 5xx | RETRY with backoff |
| any other status: 3xx, 400, 404, 413, 422 | FAIL; 3xx, 404 and 405 from an endpoint that never answered blame it |
| 4xx or 5xx with `x-should-retry: false` | FAIL where the rows above say RETRY, and as transient as that |
| 4xx or 5xx with `x-should-retry: true` | RETRY where the rows above say FAIL |
| never sent: DNS, refused, TLS, connect timeout | NOT_SENT; other endpoint or later, counts for the breaker |
| a kept connection was closed at once, before one byte came back | RESEND at once, once, not counted |
| broken or timed out after the request went out | AMBIGUOUS: may be billed; retried once |
| larger than the cap, as received or unpacked; headers without end | FAIL, may be billed |

`x-should-retry` is what OpenAI's and Anthropic's own clients go by: `_should_retry` in
https://github.com/openai/openai-python/blob/main/src/openai/_base_client.py
"""

from dataclasses import dataclass
from enum import Enum, auto

from llmblast.records import Answer, Cause, Reply, Request
from llmblast.sending.openai import ReplyError, read_answer, read_error
from llmblast.sending.retry_after import retry_after_s

UNUSABLE_RETRIES = 2
AMBIGUOUS_RETRIES = 1
STALE_WITHIN_S = 1.0
"""A server that closes a kept connection later than this after a request may have worked on it."""


class Action(Enum):
    """What to do with the request."""

    FAIL = auto()
    RETRY = auto()
    RESEND = auto()
    NOT_SENT = auto()
    COOL_DOWN = auto()
    DISABLE = auto()


@dataclass(slots=True)
class Verdict:
    """What a reply without an answer means.

    `message` and `code` are for the error record, `wait_s` is what the provider asked for.
    """

    action: Action
    message: str = ""
    code: str = ""
    wait_s: float | None = None
    transient: bool = False
    """For FAIL, and for a RETRY that is given up: another run may succeed."""
    keeps_body: bool = False
    was_used: bool = False
    """The provider may have worked on it: its tokens count, and it may be billed."""
    blames_endpoint: bool = False
    """Says that nothing is there rather than that this line is wrong; what it means shows in the endpoint's past."""


_FIXED_ACTIONS = {
    401: Action.DISABLE,
    402: Action.DISABLE,
    403: Action.DISABLE,
    408: Action.RETRY,
    409: Action.RETRY,
    429: Action.COOL_DOWN,
    529: Action.COOL_DOWN,
}
_OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance")
_OVERRULED = {(Action.RETRY, b"false"): Action.FAIL, (Action.FAIL, b"true"): Action.RETRY}
_NEVER_FITS = ("request too large", "exceeds the maximum", "exceeds the rate limit of")


def judge(request: Request, reply: Reply, wall_now_s: float) -> Answer | Verdict:
    """The answer in one reply to `request`, or the verdict on it. Changes nothing; never raises."""
    if reply.cause is not None:
        return _judge_cause(request, reply, reply.cause)
    if 200 <= reply.status < 300:
        answer = read_answer(request, reply)
        if isinstance(answer, Answer):
            return answer
        if len(answer.code) == 3 and answer.code.isdecimal() and 400 <= int(answer.code) < 600:
            verdict = _judge_status(request, int(answer.code), answer, reply, wall_now_s)
            verdict.keeps_body = True
            return verdict
        return _judge_unusable(request, answer)
    return _judge_status(request, reply.status, read_error(reply), reply, wall_now_s)


def _judge_status(request: Request, status: int, error: ReplyError, reply: Reply, wall_now_s: float) -> Verdict:
    code = error.code or f"http_{status}"
    message = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    wait_s = retry_after_s(reply, wall_now_s)
    action = _FIXED_ACTIONS.get(status, Action.RETRY if status >= 500 else Action.FAIL)
    if status == 503 and wait_s is not None:
        action = Action.COOL_DOWN
    if action is Action.COOL_DOWN and (error.code in _OUT_OF_MONEY or error.kind in _OUT_OF_MONEY):
        action = Action.DISABLE
    if action is Action.COOL_DOWN and any(words in error.message.lower() for words in _NEVER_FITS):
        action = Action.FAIL
    advised = _heed_advice(action, reply) if status >= 400 else action
    if 300 <= status < 400:
        message += " (redirects are not followed: name the final URL)"
    asks_for_its_own_model = error.code == "model_not_found" and not request.needs_model
    nothing_there = (status < 400 or status in (404, 405)) and not asks_for_its_own_model
    return Verdict(
        advised,
        message,
        code,
        wait_s=wait_s,
        transient=action is not Action.FAIL or advised is not Action.FAIL,
        blames_endpoint=nothing_there and advised is Action.FAIL,
    )


def _heed_advice(action: Action, reply: Reply) -> Action:
    advice = reply.header(b"x-should-retry")
    return action if advice is None else _OVERRULED.get((action, advice.strip().lower()), action)


def _judge_unusable(request: Request, error: ReplyError) -> Verdict:
    retried_enough = request.unusable_replies >= UNUSABLE_RETRIES
    return Verdict(
        Action.FAIL if retried_enough else Action.RETRY,
        error.message or "the endpoint answered with an error",
        error.code or "unusable_reply",
        transient=True,
        keeps_body=True,
        was_used=True,
    )


def _judge_cause(request: Request, reply: Reply, cause: Cause) -> Verdict:
    if cause is Cause.NOT_SENT:
        return Verdict(Action.NOT_SENT, reply.detail, "not_sent", transient=True)
    if cause is Cause.STALE and not request.resent and reply.latency_s < STALE_WITHIN_S:
        return Verdict(Action.RESEND, reply.detail, "stale_connection", transient=True)
    if cause is Cause.TOO_LARGE:
        return Verdict(Action.FAIL, reply.detail, "reply_too_large", was_used=True)
    retried_enough = request.ambiguous_sends >= AMBIGUOUS_RETRIES
    return Verdict(
        Action.FAIL if retried_enough else Action.RETRY,
        reply.detail,
        "timeout" if cause is Cause.TIMED_OUT else "connection_broken",
        transient=True,
        was_used=True,
    )
