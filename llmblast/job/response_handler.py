"""Response handler: decide what follows from a reply, for its line, its endpoint and the whole run.

An answer becomes a record. A line that failed is sent again or gets its error record. What a refusal or a rate-limit
reply means is not decided by that reply alone: `scheduling` keeps the evidence of what other lines meet at the same
endpoint. Nothing here waits, and nothing is sent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.hiding import hide_user, hide_user_bytes
from llmblast.job.hedging import Hedging
from llmblast.job.suspects import Suspect, Suspects
from llmblast.providers import is_flagged
from llmblast.records import Answer, Failure, Outcome, Provider, Reply, Request, Success
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.scheduling.refusals import State
from llmblast.sending import Action, Backoff, Blame, Verdict
from llmblast.watching import Counters, duration

_TOO_MANY_REQUESTS = 429
_WORDS = {
    Action.FAIL: "failed",
    Action.RETRY: "failed, may be sent again",
    Action.RESEND: "sent again",
    Action.NOT_SENT: "not sent",
    Action.PUSH_BACK: "paused",
    Action.REFUSED: "refused",
}
CHANCE = 1e-7
"""A line is rejected as often as `max_attempts`, and as makes chance less likely than this, before it fails."""
FIRST_WAIT_S = 0.05
MAX_DOUBLINGS = 3
"""The wait of a rejected line that was told no moment: 0.05 s, 0.1 s, ... 0.4 s; a used-up quota holds it back, too."""


class Sink(Protocol):
    """Where outcomes go."""

    @property
    def is_full(self) -> bool: ...

    def put(self, outcome: Outcome) -> None: ...


@dataclass(slots=True, eq=False)
class ResponseHandler:
    """`stop` ends the run, with an exit code and the reason in words; `gives_up` says when too many lines failed."""

    scheduler: Scheduler
    sink: Sink
    backoff: Backoff
    counters: Counters
    stop: Callable[[ExitCode, str], None]
    gives_up: Callable[[Counters], bool]
    notice: Callable[[str], None] | None
    hedging: Hedging | None
    max_wait_s: float
    fence: Fence
    on_hedging_defect: Callable[[Exception, Request], bool]
    """Switches hedging off; returns whether the line of that request, which has failed, is left to another send."""
    providers: Sequence[Provider] = ()
    """By the indexes of endpoints."""
    suspects: Suspects = field(default_factory=Suspects)
    reported_limits: set[Endpoint] = field(default_factory=set)
    """Endpoints whose reported limits were already logged."""
    waits_for: str = ""
    """What lines that were left pending wait for, in words."""

    def on_rate_limit_headers(
        self, request: Request, endpoint: Endpoint, reply: Reply, wall_now_s: float, now: float
    ) -> None:
        """Hand the rate-limit headers to the scheduler; log an endpoint's first ones for the person who sets limits."""
        try:
            infos = self.providers[endpoint.index].read_limits(reply.headers.items(), wall_now_s)
            self.scheduler.on_rate_limit_headers(request, endpoint, infos, now)
        except Exception as error:  # noqa: BLE001 -- advice
            endpoint.ignore_headers()
            self.fence.switch_off(f"reading rate-limit headers of {endpoint.name}", error)
            return
        if self.notice is None or endpoint in self.reported_limits:
            return
        self.reported_limits.add(endpoint)
        for info in infos:
            if info.limit is not None:
                left = "" if info.remaining is None else f", {info.remaining:,g} left"
                self.notice(f"{endpoint.name}: the provider reports a limit of {info.limit:,g} {info.kind}{left}")

    def succeed(self, request: Request, endpoint: Endpoint, reply: Reply, answer: Answer, now: float) -> None:
        """The line has its answer."""
        request.attempts += 1
        self.sink.put(Success(request, answer, reply, endpoint.name))
        counters = self.counters
        counters.succeeded += 1
        if answer.finish_reason != "stop" and is_flagged(answer.finish_reason):
            counters.flagged += 1
        mine = counters.endpoints[endpoint.index]
        mine.succeeded += 1
        try:
            mine.latency.add(reply.latency_s)
        except Exception as error:  # noqa: BLE001 -- advice
            self.fence.switch_off("the latency statistics", error)
        if answer.prompt_tokens is not None and answer.completion_tokens is not None:
            counters.prompt_tokens += answer.prompt_tokens
            counters.completion_tokens += answer.completion_tokens
            mine.tokens += answer.prompt_tokens + answer.completion_tokens
            if self.scheduler.counts_tokens:
                endpoint.learn(request, answer, now)

    def handle(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        """Handle everything that is no success."""
        verdict.message = hide_user(verdict.message)
        is_first = not request.failed_on & endpoint.bit
        request.failed_on |= endpoint.bit
        self._count(request, endpoint, reply, verdict)
        if self.notice is not None:
            self.notice(f"line {request.number}: {endpoint.name}: {_in_words(verdict)}: {verdict.message}")
        if verdict.action is Action.REFUSED:
            self._on_refusal(request, endpoint, reply, verdict, now, is_first=is_first)
        elif verdict.action is Action.PUSH_BACK:
            self._on_push_back(request, endpoint, reply, verdict, now)
        elif verdict.action is Action.RESEND:
            endpoint.passed_over(request.sent_s, now)
            request.resent = True
            self._again(request, now)
        elif verdict.action is Action.NOT_SENT:
            endpoint.unreachable(request.sent_s, now)
            self._check_reachable(verdict)
            self._again(request, now)
        else:
            if verdict.transient:
                self.scheduler.failed(request, endpoint, now, is_first=is_first)
            else:
                endpoint.passed_over(request.sent_s, now)
            self._retry_or_fail(request, endpoint, reply, verdict, now)

    def clear(self, endpoint: Endpoint, answered: Request) -> None:
        """Fail the suspects that an answer at their endpoint shows to be to blame."""
        for suspect in self.suspects.take(lambda suspect: suspect.is_shown_by(answered, endpoint)):
            self._fail(suspect.request, suspect.endpoint, suspect.reply, suspect.verdict)

    def decide_left_alone(self, now: float) -> None:
        """Decide on suspects for which no other line shows anything soon."""
        self._decide(self.suspects.take(lambda suspect: suspect.is_left_alone(now)))

    def decide_all(self) -> None:
        """Decide on all suspects: there are no other lines."""
        self._decide(self.suspects.take_all())

    def give_up_unsendable(self, request: Request) -> None:
        """End a line that no endpoint takes in this run: it fails where they refuse it or its model, and stays pending
        where one would take it but for a rate limit that lasts too long.
        """
        self.scheduler.gave_up(request)
        models = [(e.name, model) for e in self.scheduler.enabled if (model := e.models.get(request.model))]
        waits = [f"{e.name}: {e.blocked}" for e in self.scheduler.usable_for(request)]
        waits += [f"the model {model.name} at {name}: {model.reason}" for name, model in models if model.until_s]
        if waits:
            self.waits_for = waits[0]
            self.counters.left_pending += 1
            return
        open_to_it = [e for e in self.scheduler.endpoints if not request.closed_to & e.bit]
        if request.closed_to and all(e.disabled for e in open_to_it):
            off = "; ".join(f"{e.name} is off: {e.disabled}" for e in open_to_it)
            self.waits_for = f"an endpoint that speaks their API: {off}"
            self.counters.left_pending += 1
            return
        reasons = [f"{name}: {model.reason}" for name, model in models if model.is_out]
        if reasons:
            code, error = "model_refused", f"no endpoint accepts the model {request.model}: {'; '.join(reasons)}"
        else:
            states = [
                f"{e.name} is off: {e.disabled}" if e.disabled else f"{e.name} rejected the line" for e in open_to_it
            ]
            code, error = "refused", f"no endpoint is left for this line: {'; '.join(states)}"
        self.fail(Failure(line=request, error=error, code=code, transient=True, attempts=request.attempts))

    def fail(self, failure: Failure) -> None:
        """The line gets no answer in this run."""
        self.sink.put(failure)
        self.counters.failed += 1
        try:
            self.counters.count_error(failure.code, failure.line.number, failure.error)
        except Exception as error:  # noqa: BLE001 -- advice
            self.fence.switch_off("the error statistics", error)
        if self.gives_up(self.counters):
            self.stop(ExitCode.GAVE_UP, f"{self.counters.failed:,} lines failed, more than --max-errors allows")

    def _count(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict) -> None:
        mine = self.counters.endpoints[endpoint.index]
        if verdict.action is Action.PUSH_BACK or reply.status == _TOO_MANY_REQUESTS:
            self.counters.rate_limited += 1
            mine.rate_limited += 1
        elif verdict.action is not Action.RESEND:
            mine.errors += 1
        if verdict.action not in (Action.PUSH_BACK, Action.RESEND):
            endpoint.trouble = verdict.message
            try:
                endpoint.observe_failure()
            except Exception as error:  # noqa: BLE001 -- advice
                self.fence.switch_off(f"the average latency of {endpoint.name}", error)
        if not verdict.was_used:
            return
        self.counters.maybe_billed += 1
        if reply.cause is None:
            request.unusable_replies += 1
        else:
            request.ambiguous_sends += 1

    def _on_push_back(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        """Send the line again, elsewhere at once or here later, unless it alone is rejected time and again."""
        is_explained = self.scheduler.on_push_back(request, endpoint, verdict.wait_s, now)
        share = endpoint.push_back.share
        bound = math.ceil(math.log(CHANCE) / math.log(min(max(share, CHANCE), 0.9)))
        if self.backoff.gives_up(request.rejections) and request.rejections >= bound:
            self._fail(request, endpoint, reply, verdict)
            return
        others = [e for e in self.scheduler.usable_for(request) if not request.failed_on & e.bit and not e.is_held]
        if is_explained:
            self._again(request, now if others else now + FIRST_WAIT_S)
            return
        self._again(request, now if others else now + self._rejected_wait_s(request, endpoint, verdict.wait_s))

    def _rejected_wait_s(self, request: Request, endpoint: Endpoint, named_s: float | None) -> float:
        """Return the seconds that a rejected line waits.

        While others pass, it waits half of what is named, since that is often rounded up to whole seconds, and once:
        when it is rejected again all the same, the moment says nothing.
        """
        backoff_s = FIRST_WAIT_S * 2.0 ** min(request.rejections, MAX_DOUBLINGS)
        if named_s is None or named_s > self.max_wait_s:
            return backoff_s
        if endpoint.push_back.is_held:
            return named_s
        return named_s / 2 if request.rejections == 0 else min(named_s, backoff_s)

    def _on_refusal(
        self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float, *, is_first: bool
    ) -> None:
        """Send a refused line elsewhere. Where no endpoint is left that has not refused it, it waits as a suspect for
        what others meet. One that says that nothing is there, after answers, is tried again here, and counts for a row
        the first time only: answers may have shown already that it is to blame.
        """
        is_blamed = verdict.blame is Blame.ENDPOINT
        comes_and_goes = verdict.is_not_found and endpoint.breaker_of(request).has_answered
        if not comes_and_goes:
            request.refused_by |= endpoint.bit
            request.attempts += not is_blamed
        if verdict.blame is Blame.LINE or (comes_and_goes and not is_first):
            endpoint.passed_over(request.sent_s, now)
        else:
            self.scheduler.on_refusal(request, endpoint, verdict.signature, now, is_blamed=is_blamed)
        suspect = Suspect(request, endpoint, reply, verdict, now)
        if comes_and_goes:
            later = replace(verdict, action=Action.RETRY, transient=True)
            self._retry_or_fail(request, endpoint, reply, later, now)
        elif verdict.blame is Blame.LINE or self.scheduler.can_go(request):
            self._go_elsewhere_or_fail(suspect, verdict)
        elif not self._is_left_to_its_rival(request):
            self.suspects.add(suspect)
        self._take_out_refusing(request, endpoint, verdict)

    def _take_out_refusing(self, request: Request, endpoint: Endpoint, verdict: Verdict) -> None:
        """Take out the endpoint, or the model there, whose circuit breaker has opened."""
        if endpoint.refusals.state is State.OPEN and endpoint.disabled is None:
            self._take_out(endpoint, verdict)
        model = endpoint.models.get(request.model)
        if model is not None and model.refusals.state is State.OPEN and not model.reason:
            model.reason = verdict.message
            for suspect in self.suspects.take(lambda s: s.was_refused_by(endpoint) and s.request.model == model.name):
                self._go_elsewhere_or_fail(suspect, replace(suspect.verdict, transient=True))

    def _decide(self, suspects: Sequence[Suspect]) -> None:
        """Where other lines show nothing more, a suspected endpoint is out, unless it has answered a line that was sent
        with this one or later, and the words of the reply decide for one that never answered. Else the line fails;
        where little or nothing points to it, another run tries it again.
        """
        for suspect in suspects:
            request, _, _, verdict, _ = suspect
            is_nowhere = verdict.is_not_found and request.model is None
            says_so = verdict.blame is Blame.ENDPOINT or is_nowhere
            for endpoint in self.scheduler.enabled:
                breaker = endpoint.refusals
                is_blamed = says_so and endpoint is suspect.endpoint and not breaker.has_answered
                is_suspected = breaker.is_suspected and endpoint.last_answered_sent_s < request.sent_s
                if suspect.was_refused_by(endpoint) and (is_suspected or is_blamed):
                    self._take_out(endpoint, verdict)
            is_unclear = suspect.endpoint.refusals.is_suspected or not suspect.is_likely_to_blame
            is_transient = verdict.transient or is_unclear
            self._go_elsewhere_or_fail(suspect, replace(verdict, transient=is_transient))

    def _go_elsewhere_or_fail(self, suspect: Suspect, verdict: Verdict) -> None:
        """Send a refused line to an endpoint that has not refused it; keep it where all are out; else it fails."""
        request, endpoint, reply, _, since_s = suspect
        if self.scheduler.can_go(request) or self.scheduler.is_exhausted:
            self._again(request, since_s)
        elif not self._is_left_to_its_rival(request):
            self._fail(request, endpoint, reply, verdict)

    def _take_out(self, endpoint: Endpoint, verdict: Verdict) -> None:
        """Send nothing to the endpoint any more. Its suspects stay pending where all are out; those that others have
        refused, too, go on waiting for what lines meet there.
        """
        reason = endpoint.trouble
        if verdict.is_not_found and not endpoint.answers:
            reason += "; it has never answered: check its URL and its model"
        self.scheduler.disable(endpoint, reason)
        if self.scheduler.is_exhausted:
            all_reasons = "; ".join(f"{e.name}: {e.disabled}" for e in self.scheduler.endpoints)
            self.stop(ExitCode.REFUSED, f"all endpoints rejected the requests: {all_reasons}")
        enabled = self.scheduler.enabled
        for suspect in self.suspects.take(lambda suspect: not any(map(suspect.was_refused_by, enabled))):
            self._again(suspect.request, suspect.since_s)

    def _check_reachable(self, verdict: Verdict) -> None:
        """An endpoint that has answered before is waited for; when none ever did, somebody has to look."""
        enabled = [endpoint for endpoint in self.scheduler.endpoints if endpoint.disabled is None]
        if all(endpoint.breaker.is_open for endpoint in enabled) and not any(e.breaker.has_answered for e in enabled):
            self.stop(ExitCode.REFUSED, f"no endpoint can be reached: {verdict.message}")

    def _retry_or_fail(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        request.attempts += 1
        is_soon = verdict.wait_s is None or verdict.wait_s <= self.max_wait_s
        if verdict.action is Action.RETRY and is_soon and not self.backoff.gives_up(request.attempts):
            wait_s = self.backoff.retry_wait_s(request.attempts, was_used=verdict.was_used)
            self._again(request, now + max(wait_s, verdict.wait_s or 0.0), has_failed=True)
        elif not self._is_left_to_its_rival(request):
            self._fail(request, endpoint, reply, verdict)

    def _fail(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict) -> None:
        self.scheduler.gave_up(request)
        self.fail(
            Failure(
                line=request,
                error=verdict.message,
                code=verdict.code,
                status=reply.status,
                transient=verdict.transient,
                endpoint=endpoint.name,
                attempts=request.attempts + request.rejections,
                maybe_billed=request.ambiguous_sends + request.unusable_replies,
                body=hide_user_bytes(reply.body) if verdict.keeps_body else b"",
                reply=reply,
            )
        )

    def _again(self, request: Request, due_s: float, *, has_failed: bool = False) -> None:
        if not self._is_left_to_its_rival(request):
            self.scheduler.lanes.add_retry(request, due_s, has_failed=has_failed)

    def _is_left_to_its_rival(self, request: Request) -> bool:
        if self.hedging is None:
            return False
        try:
            return self.hedging.yields(request)
        except Exception as error:  # noqa: BLE001 -- advice
            return self.on_hedging_defect(error, request)


def _in_words(verdict: Verdict) -> str:
    """Say what happens to a request, for a person."""
    if verdict.action is Action.PUSH_BACK and verdict.wait_s is not None:
        return f"paused {duration(verdict.wait_s)}"
    return _WORDS[verdict.action]
