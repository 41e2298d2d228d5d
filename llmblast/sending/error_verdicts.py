"""Error verdicts: judge HTTP errors and replies without an answer by one table, which is read from top to bottom.

| reply | action |
|---|---|
| 2xx that carries an error with a status of its own | judged as that status |
| 2xx that carries a rate limit or account trouble by name or in words | judged as below; not billed without usage |
| 2xx that is no JSON, is empty, has no answer, or carries an error | RETRY twice, then FAIL; the raw body is kept |
| 2xx whose generation failed or broke off, without a token, with embeddings of other texts | the same |
| 2xx in a content coding that cannot be taken off | the same, without the body |
| 413, 429 whose numbers say that it never fits (requested > limit) | REFUSED, LINE, never fits |
| 401, 402, 407 | REFUSED, ENDPOINT |
| account trouble by name or in words; not 429, 5xx or 2xx that names a wait | REFUSED, ENDPOINT |
| 400, 403, 413, 422 for what is in the line, by name or in words; 429 if it names no wait | REFUSED, LINE |
| the same with 500, if its numbers say that it is too large; llama.cpp answers so for its batch size | REFUSED, LINE |
| 429, 529; 503 that names a wait | PUSH_BACK; other endpoint or later, not counted as an attempt |
| the name of a rate limit or an overload, with any status but 3xx and 413 | PUSH_BACK |
| words of a rate limit in 403, 500, 502, 503, 2xx; of an overload or a full queue in 500, 502, 503 | PUSH_BACK |
| 413 | REFUSED, LINE |
| 501, 505 | REFUSED, UNKNOWN |
| 408, 409, 423, 424, 425, any 4xx that is not registered, other 5xx | RETRY with backoff |
| 3xx, 404, 405, an unknown model | REFUSED, UNKNOWN, nothing is there |
| any other status: 400, 403, 412, 422 | REFUSED, UNKNOWN |
| 4xx or 5xx with `x-should-retry: false` | FAIL where the rows above say RETRY, and as transient as that |
| 4xx or 5xx with `x-should-retry: true` | RETRY where the rows above say REFUSED |

Only this one reply is read here. Other lines' replies from the same endpoint show who is to blame for a refusal; the
words and codes of a reply (`Blame`) break a tie.

OpenAI's and Anthropic's own clients obey `x-should-retry`: `_should_retry` in
https://github.com/openai/openai-python/blob/main/src/openai/_base_client.py
"""

from llmblast.models import Attempt, Reply, ReplyError
from llmblast.provider_contract import Provider
from llmblast.sending.error_hints import Hint, hints_in
from llmblast.sending.retry_after import retry_after_s
from llmblast.sending.signature import signature_of
from llmblast.sending.verdict import Action, Blame, Verdict

MAX_UNUSABLE_RETRIES = 2
MAX_RETRY_WAIT_S = 24 * 3600.0
"""Longer waits before a RETRY are cut to this: a wrong number must not park one line for a year."""

_ENDPOINT_STATUSES = (401, 402, 407)
_MAY_BE_OF_THE_LINE = (400, 403, 413, 422, 429)
_REDIRECTS = (301, 302, 303, 307, 308)
_PUSH_BACK_STATUSES = (429, 529)
_MAY_BE_OVERLOAD = (500, 502, 503)
_LATER = (408, 409, 423, 424, 425)
_NOT_SUPPORTED = (501, 505)
"""RFC 9110 sections 15.6.2 and 15.6.6: the server does not have what is asked for."""
_PERMANENT = frozenset((*range(400, 418), 421, 422, 426, 428, 431, 451)) - frozenset(_LATER)
"""https://www.iana.org/assignments/http-status-codes: statuses that are not registered there, such as Groq's 498 for a
full tier, nginx's 499 and a load balancer's 460, are not known to be permanent."""


def judge_unanswered(
    attempt: Attempt, error: ReplyError, reply: Reply, wall_now_s: float, provider: Provider
) -> Verdict:
    """Judge a 2xx reply that carries an error or no answer."""
    told = Hint.ACCOUNT | Hint.RATE_LIMIT | Hint.RATE_WORDS | Hint.STATED
    if error.status is None and not hints_in(error) & told:
        return _judge_unusable(attempt, error)
    verdict = judge_error(error.status or reply.status, error, reply, wall_now_s, provider)
    is_push_back = verdict.action is Action.PUSH_BACK
    verdict.was_used = is_push_back and error.has_usage
    verdict.keeps_body = not is_push_back or error.has_usage
    return verdict


def judge_error(status: int, error: ReplyError, reply: Reply, wall_now_s: float, provider: Provider) -> Verdict:
    """Judge a reply by the rows of the table. `status` is its own or the one that its error names."""
    hints = hints_in(error)
    wait_s = retry_after_s(reply, wall_now_s)
    if wait_s is None:
        wait_s = provider.named_wait_s(error, reply, wall_now_s)
    action, blame = _read(status, hints, names_wait=wait_s is not None)
    never_fits = action is Action.REFUSED and _never_fits(status, hints)
    is_refused = action is Action.REFUSED
    is_transient = not is_refused or blame is Blame.ENDPOINT or (status == 403 and blame is Blame.UNKNOWN)
    advised = _heed_advice(action, reply) if status >= 400 else action
    message = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    if error.message.startswith(f"HTTP {status} "):
        message = error.message
    if status in _REDIRECTS:
        message += " (redirects are not followed: name the final URL)"
    code = error.code or f"http_{status}"
    verdict = Verdict(advised, message, code, transient=is_transient or advised is Action.RETRY)
    verdict.signature = signature_of(status, code, error.message)
    if wait_s is not None:
        is_retry = advised in (Action.RETRY, Action.FAIL)
        verdict.wait_s = min(wait_s, MAX_RETRY_WAIT_S) if is_retry else wait_s
    if advised is Action.REFUSED:
        verdict.blame = blame
        verdict.never_fits = never_fits
        verdict.is_not_found = blame is Blame.UNKNOWN and _is_not_found(status, hints)
    return verdict


def _read(status: int, hints: Hint, *, names_wait: bool) -> tuple[Action, Blame]:  # noqa: PLR0911 -- one return a row
    """Apply the rows of the table in their order."""
    may_pass = status < 300 or status == 429 or status >= 500
    if _never_fits(status, hints):
        return Action.REFUSED, Blame.LINE
    if status in _ENDPOINT_STATUSES or (Hint.ACCOUNT in hints and not (may_pass and names_wait)):
        return Action.REFUSED, Blame.ENDPOINT
    is_too_large = status == 500 and Hint.TOO_LARGE in hints
    may_be_of_the_line = is_too_large or status in _MAY_BE_OF_THE_LINE or Hint.STATED in hints
    if Hint.LINE in hints and may_be_of_the_line and not (may_pass and names_wait):
        return Action.REFUSED, Blame.LINE
    if _pushes_back(status, hints, names_wait=names_wait):
        return Action.PUSH_BACK, Blame.UNKNOWN
    if status == 413:
        return Action.REFUSED, Blame.LINE
    if status in _NOT_SUPPORTED:
        return Action.REFUSED, Blame.UNKNOWN
    if status >= 500 or Hint.PASSING in hints or (status >= 400 and status not in _PERMANENT):
        return Action.RETRY, Blame.UNKNOWN
    return Action.REFUSED, Blame.UNKNOWN


def _never_fits(status: int, hints: Hint) -> bool:
    return Hint.TOO_LARGE in hints and (status in (413, 429) or Hint.RATE_LIMIT in hints)


def _pushes_back(status: int, hints: Hint, *, names_wait: bool) -> bool:
    if status in _PUSH_BACK_STATUSES or (status == 503 and names_wait):
        return True
    if Hint.RATE_LIMIT in hints:
        return status != 413 and not 300 <= status < 400
    if status in _MAY_BE_OVERLOAD and Hint.BUSY_WORDS in hints:
        return True
    return Hint.RATE_WORDS in hints and (status in (*_MAY_BE_OVERLOAD, 403) or 200 <= status < 300)


def _is_not_found(status: int, hints: Hint) -> bool:
    is_redirect = status < 400 and not 200 <= status < 300
    return is_redirect or status in (404, 405) or Hint.NO_MODEL in hints


_OVERRULED = {(Action.RETRY, b"false"): Action.FAIL, (Action.REFUSED, b"true"): Action.RETRY}


def _heed_advice(action: Action, reply: Reply) -> Action:
    advice = reply.header(b"x-should-retry")
    return action if advice is None else _OVERRULED.get((action, advice.strip().lower()), action)


def _judge_unusable(attempt: Attempt, error: ReplyError) -> Verdict:
    retried_enough = attempt.unusable_replies >= MAX_UNUSABLE_RETRIES
    return Verdict(
        Action.FAIL if retried_enough else Action.RETRY,
        error.message or "the endpoint answered with an error",
        error.code or "unusable_reply",
        transient=True,
        keeps_body=True,
        was_used=True,
    )
