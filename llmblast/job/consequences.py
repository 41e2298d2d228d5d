"""Consequences: what follows from a reply, for its line, its endpoint and the whole run.

An answer becomes a record. All else is counted, pauses or disables the endpoint where that is to blame, and then the
request goes again or its line fails. Nothing here waits, and nothing is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from llmblast.errors import ExitCode
from llmblast.job.hedging import Hedging
from llmblast.records import Answer, Failure, Outcome, Reply, Request, Success
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.sending import Action, Backoff, Verdict, read_rate_limits
from llmblast.watching import Counters

CUT_OFF_REASONS = ("length", "content_filter")
_TOO_MANY_REQUESTS = 429


class Sink(Protocol):
    """Where outcomes go."""

    @property
    def is_full(self) -> bool: ...

    def put(self, outcome: Outcome) -> None: ...


@dataclass(slots=True, eq=False)
class Consequences:
    """`stop` ends the run, with an exit code and the reason in words; `gives_up` says when too many lines failed."""

    scheduler: Scheduler
    sink: Sink
    backoff: Backoff
    counters: Counters
    stop: Callable[[ExitCode, str], None]
    gives_up: Callable[[Counters], bool]
    notice: Callable[[str], None] | None
    hedging: Hedging | None
    reported_limits: set[Endpoint] = field(default_factory=set)
    """Endpoints whose reported limits were already logged."""

    def on_rate_limit_headers(
        self, request: Request, endpoint: Endpoint, reply: Reply, wall_now_s: float, now: float
    ) -> None:
        """Hand the rate-limit headers to the scheduler; log an endpoint's first ones for the person who sets limits."""
        infos = read_rate_limits(reply.headers.items(), wall_now_s)
        self.scheduler.on_rate_limit_headers(request, endpoint, infos, now)
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
        counters = self.counters
        counters.succeeded += 1
        if answer.finish_reason in CUT_OFF_REASONS:
            counters.flagged += 1
        mine = counters.endpoints[endpoint.index]
        mine.succeeded += 1
        mine.latency.add(reply.latency_s)
        if answer.prompt_tokens is not None and answer.completion_tokens is not None:
            counters.prompt_tokens += answer.prompt_tokens
            counters.completion_tokens += answer.completion_tokens
            mine.tokens += answer.prompt_tokens + answer.completion_tokens
            if self.scheduler.counts_tokens:
                endpoint.learn(request, answer, now)
        self.sink.put(Success(request, answer, reply, endpoint.name))

    def handle(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        """Everything that is no success."""
        is_first = not request.failed_on & endpoint.bit
        request.failed_on |= endpoint.bit
        self._count(request, endpoint, reply, verdict)
        if self.notice is not None:
            self.notice(f"line {request.number}: {endpoint.name}: {verdict.action.name}: {verdict.message}")
        if verdict.blames_endpoint and not endpoint.answers:
            self._disable(endpoint, f"{verdict.message}; it never gave an answer: are its URL and its model right?")
        elif verdict.action is Action.DISABLE:
            self._disable(endpoint, verdict.message)
        elif verdict.action is Action.COOL_DOWN:
            self._cool_down(request, endpoint, verdict, now)
        elif verdict.action is Action.RESEND:
            endpoint.passed_over(request.sent_s, now)
            request.resent = True
        elif verdict.action is Action.NOT_SENT:
            endpoint.unreachable(request.sent_s, now)
            self._check_reachable(verdict)
        else:
            if verdict.transient:
                self.scheduler.failed(request, endpoint, now, is_first=is_first)
            else:
                endpoint.refused(request.sent_s, now)
            self._retry_or_fail(request, endpoint, reply, verdict, now)
            return
        self._again(request, now)

    def fail(self, failure: Failure) -> None:
        """The line gets no answer in this run."""
        self.counters.failed += 1
        self.counters.count_error(failure.code, failure.line.number, failure.error)
        self.sink.put(failure)
        if self.gives_up(self.counters):
            self.stop(ExitCode.GAVE_UP, f"{self.counters.failed:,} lines failed, more than --max-errors allows")

    def _count(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict) -> None:
        mine = self.counters.endpoints[endpoint.index]
        if verdict.action is Action.COOL_DOWN or reply.status == _TOO_MANY_REQUESTS:
            self.counters.rate_limited += 1
            mine.rate_limited += 1
        elif verdict.action is not Action.RESEND:
            mine.errors += 1
        if verdict.action not in (Action.COOL_DOWN, Action.RESEND):
            endpoint.trouble = verdict.message
            endpoint.observe_failure()
        if not verdict.was_used:
            return
        self.counters.maybe_billed += 1
        if reply.cause is None:
            request.unusable_replies += 1
        else:
            request.ambiguous_sends += 1

    def _cool_down(self, request: Request, endpoint: Endpoint, verdict: Verdict, now: float) -> None:
        """Pauses the endpoint and its quota group, until the moment that the provider names or by backoff."""
        endpoint.cool_down.rejected(request.sent_s)
        wait_s = verdict.wait_s
        if wait_s is None:
            wait_s = self.backoff.cool_down_s(endpoint.cool_down.in_a_row)
        endpoint.rejected(request.sent_s, wait_s, now)

    def _disable(self, endpoint: Endpoint, reason: str) -> None:
        self.scheduler.disable(endpoint, reason)
        if self.scheduler.is_exhausted:
            self.stop(ExitCode.REFUSED, f"every endpoint refuses us; the last one, {endpoint.name}: {reason}")

    def _check_reachable(self, verdict: Verdict) -> None:
        """An endpoint that has answered before is waited for; when none ever did, somebody has to look."""
        enabled = [endpoint for endpoint in self.scheduler.endpoints if endpoint.disabled is None]
        if all(endpoint.breaker.is_open for endpoint in enabled) and not any(e.breaker.has_answered for e in enabled):
            self.stop(ExitCode.REFUSED, f"no endpoint can be reached: {verdict.message}")

    def _retry_or_fail(self, request: Request, endpoint: Endpoint, reply: Reply, verdict: Verdict, now: float) -> None:
        request.attempts += 1
        if verdict.action is Action.RETRY and not self.backoff.gives_up(request.attempts):
            wait_s = self.backoff.retry_wait_s(request.attempts, was_used=verdict.was_used)
            self._again(request, now + max(wait_s, verdict.wait_s or 0.0), has_failed=True)
        elif not self._is_left_to_its_rival(request):
            self.scheduler.gave_up(request)
            self.fail(
                Failure(
                    line=request,
                    error=verdict.message,
                    code=verdict.code,
                    status=reply.status,
                    transient=verdict.transient,
                    endpoint=endpoint.name,
                    attempts=request.attempts,
                    maybe_billed=request.ambiguous_sends + request.unusable_replies,
                    body=reply.body if verdict.keeps_body else b"",
                )
            )

    def _again(self, request: Request, due_s: float, *, has_failed: bool = False) -> None:
        if not self._is_left_to_its_rival(request):
            self.scheduler.lanes.add_retry(request, due_s, has_failed=has_failed)

    def _is_left_to_its_rival(self, request: Request) -> bool:
        return self.hedging is not None and self.hedging.yields(request)
