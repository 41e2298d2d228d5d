"""Response handler: decide what follows from a reply, for its line, its endpoint and the whole run.

An answer becomes a record. A line that failed is sent again or gets its error record. What a refusal or a rate-limit
reply means is not decided by that reply alone: `scheduling` keeps the evidence of what other lines meet at the same
endpoint. Nothing here waits, and nothing is sent: what follows for the run is returned, and the engine carries it out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.hiding import hide_user
from llmblast.job.decisions import DONE, Decisions, RenewKey, Retry, Stop
from llmblast.job.hedged_sends import HedgedSends
from llmblast.job.key_refresh import KeyRenewal
from llmblast.job.line_ends import LineEnds
from llmblast.job.refused_lines import RefusedLines
from llmblast.job.suspects import Suspect
from llmblast.models import NO_TOKENS, Attempt, Reply
from llmblast.provider_contract import Provider
from llmblast.scheduling import ANSWERED, Endpoint, Finding, Kind, Scheduler, SendOutcome
from llmblast.sending import Action, Backoff, Blame, Verdict, judge
from llmblast.watching import FLEX, Counters, duration

if TYPE_CHECKING:
    from llmblast.job.answer_review import AnswerReview
    from llmblast.job.flex_tier import FlexTier

_UNAUTHORIZED: Final = 401
_TOO_MANY_REQUESTS: Final = 429
_WORDS: Final = {
    Action.FAIL: "failed",
    Action.RETRY: "failed, may be sent again",
    Action.RESEND: "sent again",
    Action.NOT_SENT: "not sent",
    Action.PUSH_BACK: "paused",
    Action.REFUSED: "refused",
}
CHANCE: Final = 1e-7
"""A line is rejected as often as `max_attempts`, and as makes chance less likely than this, before it fails."""
FIRST_WAIT_S: Final = 0.05
MAX_DOUBLINGS: Final = 3
"""The wait of a rejected line that was told no moment: 0.05 s, 0.1 s, ... 0.4 s; a used-up quota holds it back, too."""


@dataclass(slots=True, eq=False)
class ResponseHandler:
    """`notice` logs messages for the person who sets limits. `providers` are in the order of the endpoints."""

    scheduler: Scheduler
    line_ends: LineEnds
    refused: RefusedLines
    backoff: Backoff
    counters: Counters
    hedges: HedgedSends
    keys: KeyRenewal
    providers: Sequence[Provider]
    notice: Callable[[str], None] | None
    wall_clock: Callable[[], float]
    max_wait_s: float
    fence: Fence
    reported_limits: set[Endpoint] = field(default_factory=set)
    """Endpoints whose reported limits were already logged."""
    review: "AnswerReview | None" = None
    """Checks the answers, where anything is asked of them."""
    flex: "FlexTier | None" = None
    """Knows the refusals of flex tiers, where lines ask for one."""

    def on_reply(self, attempt: Attempt, endpoint: Endpoint, reply: Reply, now: float) -> Decisions:
        """Handle the reply to a request in flight."""
        reply.latency_s = now - attempt.sent_s
        wall_now_s = self.wall_clock()
        if now >= endpoint.learned.headers_due_s and reply.headers:
            self._on_rate_limit_headers(attempt, endpoint, reply, wall_now_s, now)
        answer = judge(attempt, reply, wall_now_s, self.providers[endpoint.index])
        if isinstance(answer, Verdict):
            wait_s = None
            if attempt.flex_at & endpoint.bit and self.flex is not None:
                wait_s = self.flex.on_refusal(attempt, endpoint, reply, answer, now)
            if wait_s is None:
                decisions = self._on_failure(attempt, endpoint, reply, answer, now)
            else:
                decisions = self._send_again(attempt, endpoint, now, wait_s)
            if self.review is not None:
                decisions = (*decisions, *self.review.on_verdict(attempt, endpoint, reply, answer))
            return decisions
        if attempt.flex_at and attempt.flex_at & endpoint.bit:
            reply.via = FLEX
            if endpoint.flex is not None:
                endpoint.flex.on_answer()
        if self.hedges.is_on:
            self.hedges.on_answer(attempt, reply, now)
        decisions = DONE
        if self.review is not None:
            decisions = self.review.on_answer(attempt, endpoint, reply, answer)
        else:
            self.line_ends.succeed(attempt, endpoint, reply, answer)  # whatever fails below, the record is written
        finding = self.scheduler.on_outcome(attempt, endpoint, ANSWERED, now)
        used = NO_TOKENS
        if self.scheduler.counts_tokens:
            endpoint.learned.learn_tokens(attempt.request, answer, now)
            used = endpoint.learned.estimator.count_tokens(attempt, answer)
        self.scheduler.release(attempt, endpoint, used, now)
        return decisions if finding is None else (*decisions, *self.refused.on_answer(attempt, endpoint))

    def on_batch_reply(self, attempt: Attempt, endpoint: Endpoint, reply: Reply) -> Decisions | None:
        """Handle the reply that a batch brought to a line; None where the line is to be sent directly instead.

        No limit was paid for it, and it says nothing of how the endpoint answers direct requests. So only a reply that
        blames the line is taken for final, and only where no other endpoint may take the line.
        """
        answer = judge(attempt, reply, self.wall_clock(), self.providers[endpoint.index])
        if not isinstance(answer, Verdict):
            if self.review is not None:
                return self.review.on_answer(attempt, endpoint, reply, answer)
            self.line_ends.succeed(attempt, endpoint, reply, answer)
            return DONE
        answer.message = hide_user(answer.message)
        self.counters.endpoints[endpoint.index].errors += 1
        self.counters.maybe_billed += answer.was_used
        attempt.unusable_replies += answer.was_used
        is_of_line = answer.action is Action.REFUSED and answer.blame is not Blame.ENDPOINT and not answer.is_not_found
        others = [other for other in self.scheduler.pool.usable_for(attempt) if other is not endpoint]
        if answer.action is not Action.FAIL and (not is_of_line or others):
            return None
        attempt.attempts += 1
        return self.line_ends.fail(attempt, endpoint, reply, answer)

    def _on_rate_limit_headers(
        self, attempt: Attempt, endpoint: Endpoint, reply: Reply, wall_now_s: float, now: float
    ) -> None:
        """Hand the rate-limit headers to the scheduler; log an endpoint's first ones for the person who sets limits."""
        try:
            infos = self.providers[endpoint.index].read_limits(reply.headers.items(), wall_now_s)
            self.scheduler.on_rate_limit_headers(attempt, endpoint, infos, now)
        except Exception as error:  # noqa: BLE001 -- advice
            endpoint.learned.ignore_headers()
            self.fence.switch_off(f"reading rate-limit headers of {endpoint.name}", error)
            return
        if self.notice is None or endpoint in self.reported_limits:
            return
        self.reported_limits.add(endpoint)
        for info in infos:
            if info.limit is not None:
                left = "" if info.remaining is None else f", {info.remaining:,g} left"
                self.notice(f"{endpoint.name}: the provider reports a limit of {info.limit:,g} {info.kind}{left}")

    def _send_with_new_key(self, attempt: Attempt, endpoint: Endpoint, now: float) -> Decisions:
        """Send the request again with the present key, or with one that is asked for now; the endpoint waits for it."""
        attempt.key_renewed = True
        self.scheduler.on_outcome(attempt, endpoint, SendOutcome(Kind.INCONCLUSIVE), now)
        again = Retry(attempt, now)
        if endpoint.health.refusals.waits_for_key or not self.keys.had_present_key(attempt, endpoint):
            return (again,)
        endpoint.wait_for_key()
        return (RenewKey(endpoint), again)

    def _send_again(self, attempt: Attempt, endpoint: Endpoint, now: float, wait_s: float) -> Decisions:
        """Send a line again that a flex tier had no room for: that says nothing of the line, nor of any limit."""
        self.counters.flex_refusals += 1
        self.scheduler.release(attempt, endpoint, NO_TOKENS, now)
        self.scheduler.on_outcome(attempt, endpoint, SendOutcome(Kind.INCONCLUSIVE), now)
        return self.line_ends.retry(attempt, now + wait_s)

    def _on_failure(
        self, attempt: Attempt, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float
    ) -> Decisions:
        self.scheduler.release(attempt, endpoint, attempt.tokens_paid if verdict.was_used else NO_TOKENS, now)
        if reply.status == _UNAUTHORIZED and self.keys.is_worthwhile(attempt, endpoint):
            return self._send_with_new_key(attempt, endpoint, now)
        verdict.message = hide_user(verdict.message)
        outcome = _outcome_of(verdict, reply, is_first=not attempt.failed_on & endpoint.bit)
        attempt.failed_on |= endpoint.bit
        self._count(attempt, endpoint, reply, verdict)
        if self.notice is not None:
            request = attempt.request
            place = f"line {request.number}" if request.file is None else f"{request.file}:{request.number}"
            self.notice(f"{place}: {endpoint.name}: {_in_words(verdict)}: {verdict.message}")
        if verdict.action is Action.REFUSED:
            return self._on_refusal(Suspect(attempt, endpoint, reply, verdict, now), outcome)
        if verdict.action is Action.PUSH_BACK and reply.headers and endpoint.learned.reads_headers:
            self._on_rate_limit_headers(attempt, endpoint, reply, self.wall_clock(), now)
        finding = self.scheduler.on_outcome(attempt, endpoint, outcome, now)
        if verdict.action is Action.PUSH_BACK:
            has_too_many_in_flight = finding is Finding.TOO_MANY_IN_FLIGHT
            return self._retry_rejected_line(
                attempt, endpoint, reply, verdict, now, has_too_many_in_flight=has_too_many_in_flight
            )
        if verdict.action is Action.RESEND:
            attempt.resent = True
            return self.line_ends.retry(attempt, now)
        if verdict.action is Action.NOT_SENT:
            return (*self._check_reachable(endpoint, verdict), *self.line_ends.retry(attempt, now))
        return self._retry_or_fail(attempt, endpoint, reply, verdict, now)

    def _count(self, attempt: Attempt, endpoint: Endpoint, reply: Reply, verdict: Verdict) -> None:
        mine = self.counters.endpoints[endpoint.index]
        if verdict.action is Action.PUSH_BACK or reply.status == _TOO_MANY_REQUESTS:
            self.counters.rate_limited += 1
            mine.rate_limited += 1
        elif verdict.action is not Action.RESEND:
            mine.errors += 1
        if not verdict.was_used:
            return
        self.counters.maybe_billed += 1
        if reply.cause is None:
            attempt.unusable_replies += 1
        else:
            attempt.ambiguous_sends += 1

    def _retry_rejected_line(
        self,
        attempt: Attempt,
        endpoint: Endpoint,
        reply: Reply,
        verdict: Verdict,
        now: float,
        *,
        has_too_many_in_flight: bool,
    ) -> Decisions:
        """Send the line again, elsewhere at once or here later, unless it alone is rejected time and again."""
        share = endpoint.hold.push_back.share
        bound = math.ceil(math.log(CHANCE) / math.log(min(max(share, CHANCE), 0.9)))
        if self.backoff.gives_up(attempt.rejections) and attempt.rejections >= bound:
            return self.line_ends.fail(attempt, endpoint, reply, verdict)
        if any(not attempt.failed_on & e.bit and not e.is_held for e in self.scheduler.pool.usable_for(attempt)):
            wait_s = 0.0
        elif has_too_many_in_flight:
            wait_s = FIRST_WAIT_S
        else:
            wait_s = self._rejected_wait_s(attempt, endpoint, verdict.wait_s)
        return self.line_ends.retry(attempt, now + wait_s)

    def _rejected_wait_s(self, attempt: Attempt, endpoint: Endpoint, named_s: float | None) -> float:
        """Return the seconds that a rejected line waits.

        While others pass, it waits half of the time that is named, since that is often rounded up to whole seconds, and
        once: when it is rejected again all the same, the moment says nothing.
        """
        backoff_s = FIRST_WAIT_S * 2.0 ** min(attempt.rejections, MAX_DOUBLINGS)
        if named_s is None or named_s > self.max_wait_s:
            return backoff_s
        if endpoint.hold.push_back.is_held:
            return named_s
        return named_s / 2 if attempt.rejections == 0 else min(named_s, backoff_s)

    def _on_refusal(self, suspect: Suspect, outcome: SendOutcome) -> Decisions:
        """Let `RefusedLines` decide. A line of which the reply says that nothing is there, after answers, is tried
        again here, and counts for a row the first time only: answers may have shown already that it is to blame.
        """
        attempt, endpoint, reply, verdict, now = suspect
        is_flaky_not_found = verdict.is_not_found and endpoint.breaker_of(attempt.request).has_answered
        if not is_flaky_not_found:
            attempt.refused_by |= endpoint.bit
            attempt.attempts += not outcome.is_blamed
        if verdict.blame is Blame.LINE or (is_flaky_not_found and not outcome.is_first):
            outcome = replace(outcome, kind=Kind.INCONCLUSIVE)
        self.scheduler.on_outcome(attempt, endpoint, outcome, now)
        if not is_flaky_not_found:
            return self.refused.on_refusal(suspect)
        later = replace(verdict, action=Action.RETRY, transient=True)
        decisions = self._retry_or_fail(attempt, endpoint, reply, later, now)
        return (*decisions, *self.refused.take_out_refusing(attempt, endpoint, verdict))

    def _check_reachable(self, endpoint: Endpoint, verdict: Verdict) -> Decisions:
        """Wait for endpoints that have answered before; stop the run where none ever did, so that a person looks."""
        breaker = endpoint.health.breaker
        if endpoint in self.scheduler.pool.reserve and breaker.is_open and not breaker.has_answered:
            self.scheduler.pool.disable(endpoint, verdict.message)  # the lines that only it can take stay pending
            return DONE
        breakers = [endpoint.health.breaker for endpoint in self.scheduler.pool.enabled]
        if all(breaker.is_open for breaker in breakers) and not any(breaker.has_answered for breaker in breakers):
            return (Stop(ExitCode.REFUSED, f"no endpoint can be reached: {verdict.message}"),)
        return DONE

    def _retry_or_fail(
        self, attempt: Attempt, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float
    ) -> Decisions:
        attempt.attempts += 1
        is_soon = verdict.wait_s is None or verdict.wait_s <= self.max_wait_s
        if verdict.action is Action.RETRY and is_soon and not self.backoff.gives_up(attempt.attempts):
            wait_s = self.backoff.retry_wait_s(attempt.attempts, was_used=verdict.was_used)
            return self.line_ends.retry(attempt, now + max(wait_s, verdict.wait_s or 0.0), has_failed=True)
        return self.line_ends.fail(attempt, endpoint, reply, verdict)


def _outcome_of(verdict: Verdict, reply: Reply, *, is_first: bool) -> SendOutcome:
    """Return what the endpoint hears of a send without an answer."""
    kind = {
        Action.REFUSED: Kind.REFUSED,
        Action.PUSH_BACK: Kind.RATE_LIMITED,
        Action.RESEND: Kind.INCONCLUSIVE,
        Action.NOT_SENT: Kind.UNREACHABLE,
    }.get(verdict.action, Kind.FAILED if verdict.transient else Kind.INCONCLUSIVE)
    return SendOutcome(
        kind,
        error="" if verdict.action in (Action.PUSH_BACK, Action.RESEND) else verdict.message,
        has_reply=reply.cause is None,
        wait_s=verdict.wait_s,
        signature=verdict.signature,
        is_blamed=verdict.blame is Blame.ENDPOINT,
        is_first=is_first,
    )


def _in_words(verdict: Verdict) -> str:
    """Say what happens to a request, for a person."""
    if verdict.action is Action.PUSH_BACK and verdict.wait_s is not None:
        return f"paused {duration(verdict.wait_s)}"
    return _WORDS[verdict.action]
