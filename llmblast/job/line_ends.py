"""Line ends: what becomes of a line once a send has ended: its record, another send, or nothing in this run.

A line of which another send is in flight is left to that one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.hiding import hide_user_bytes
from llmblast.job.back_pressure import Sink
from llmblast.job.deadlines import Deadlines
from llmblast.job.decisions import DONE, Decisions, Retry, Stop
from llmblast.job.hedged_sends import HedgedSends
from llmblast.models import IMMEDIATE, Answer, Attempt, Failure, Reply, Request, Success
from llmblast.providers import is_flagged
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.sending import Verdict
from llmblast.watching import BATCH, Counters, EndpointCounters


@dataclass(slots=True, eq=False)
class LineEnds:
    """`gives_up` says when too many lines have failed."""

    scheduler: Scheduler
    sink: Sink
    counters: Counters
    gives_up: Callable[[Counters], bool]
    hedges: HedgedSends
    fence: Fence
    deadlines: Deadlines | None = None
    waits_for: str = ""
    """The reason why lines were left pending, in words."""

    def succeed(
        self, attempt: Attempt, endpoint: Endpoint, reply: Reply, answer: Answer, parsed: bytes | None = None
    ) -> None:
        """Record and count the answer to a line."""
        attempt.attempts += 1
        request, via = attempt.request, reply.via
        attempts, maybe_billed, invalid = attempt.attempts, attempt.ambiguous_sends, attempt.invalid
        if invalid is not None:
            attempts, maybe_billed = attempt.all_attempts, attempt.all_ambiguous_sends
        self.sink.put(Success(request, answer, reply, endpoint.name, attempts, maybe_billed, parsed, invalid))
        counters = self.counters
        counters.succeeded += 1
        if request.terms is not IMMEDIATE and self.deadlines is not None:
            self.deadlines.on_end(request.terms, is_answered=True)
        if answer.finish_reason != "stop" and is_flagged(answer.finish_reason):
            counters.flagged += 1
        mine = counters.endpoints[endpoint.index]
        mine.succeeded += 1
        if via == BATCH:
            counters.batched += 1
            mine.batched += 1
        else:
            try:
                mine.latency.add(reply.latency_s)
            except Exception as error:  # noqa: BLE001 -- advice
                self.fence.switch_off("the latency statistics", error)
        if answer.prompt_tokens is not None and answer.completion_tokens is not None:
            used = mine.used.all
            used.prompt += answer.prompt_tokens
            used.completion += answer.completion_tokens
            if via or answer.cached_tokens or answer.write_surcharge:
                self._count_special(mine, answer, answer.prompt_tokens, answer.completion_tokens, reply)

    def _count_special(
        self, mine: EndpointCounters, answer: Answer, prompt_tokens: int, completion_tokens: int, reply: Reply
    ) -> None:
        """Count tokens that have another price than others."""
        cached, surcharge = min(answer.cached_tokens, prompt_tokens), answer.write_surcharge
        self.counters.cached_tokens += cached
        mine.used.all.cached += cached
        mine.used.all.write_surcharge += surcharge
        if reply.via:
            mine.used.add_by_way(reply.via, prompt_tokens, cached, completion_tokens, surcharge)

    def retry(self, attempt: Attempt, due_s: float, *, has_failed: bool = False) -> Decisions:
        """Send a line again."""
        return DONE if self.hedges.defers_to_peer(attempt) else (Retry(attempt, due_s, has_failed),)

    def fail(self, attempt: Attempt, endpoint: Endpoint, reply: Reply, verdict: Verdict) -> Decisions:
        """Record that a line gets no answer in this run."""
        if self.hedges.defers_to_peer(attempt):
            return DONE
        self.scheduler.record_end(attempt)
        return self.record_failure(
            Failure(
                line=attempt.request,
                error=verdict.message,
                code=verdict.code,
                status=reply.status,
                transient=verdict.transient,
                endpoint=endpoint.name,
                attempts=attempt.all_attempts + attempt.rejections,
                maybe_billed=attempt.all_ambiguous_sends + attempt.unusable_replies,
                body=hide_user_bytes(reply.body) if verdict.keeps_body else b"",
                reply=reply,
                invalid=attempt.invalid,
            )
        )

    def record_failure(self, failure: Failure) -> Decisions:
        """Record and count a failure; stop the run where too many lines have failed."""
        counters = self.counters
        self.sink.put(failure)
        counters.failed += 1
        line = failure.line
        if isinstance(line, Request) and line.terms is not IMMEDIATE and self.deadlines is not None:
            self.deadlines.on_end(line.terms, is_answered=False)
        try:
            counters.count_error(failure.code, failure.line.number, failure.error, failure.line.file)
        except Exception as error:  # noqa: BLE001 -- advice
            self.fence.switch_off("the error statistics", error)
        if not self.gives_up(counters):
            return DONE
        return (Stop(ExitCode.GAVE_UP, f"{counters.failed:,} lines failed, more than --max-errors allows"),)

    def give_up_unsendable(self, attempt: Attempt) -> Decisions:
        """End a line that no endpoint accepts in this run: it fails where they refuse it or its model, and stays
        pending where one would accept it but for a rate limit that lasts too long, or where those that speak its API
        are off.
        """
        self.scheduler.record_end(attempt)
        request = attempt.request
        models = [(e.name, model) for e in self.scheduler.pool.enabled if (model := e.models.get(request.model))]
        waits = [f"{e.name}: {e.health.blocked}" for e in self.scheduler.pool.usable_for(attempt)]
        waits += [f"the model {model.name} at {name}: {model.reason}" for name, model in models if model.until_s]
        open_to_it = [e for e in self.scheduler.endpoints if not request.closed_to & e.bit]
        if not waits and request.closed_to and all(e.health.disabled for e in open_to_it):
            off = "; ".join(f"{e.name} is off: {e.health.disabled}" for e in open_to_it)
            waits = [f"an endpoint that speaks their API: {off}"]
        if waits:
            self.waits_for = waits[0]
            self.counters.left_pending += 1
            self.sink.leave_out(request)
            return DONE
        reasons = [f"{name}: {model.reason}" for name, model in models if model.is_out]
        if reasons:
            code, error = "model_refused", f"no endpoint accepts the model {request.model}: {'; '.join(reasons)}"
        else:
            states = [
                f"{e.name} is off: {e.health.disabled}" if e.health.disabled else f"{e.name} rejected the line"
                for e in open_to_it
            ]
            code, error = "refused", f"no endpoint is left for this line: {'; '.join(states)}"
        return self.record_failure(
            Failure(
                line=request,
                error=error,
                code=code,
                transient=True,
                attempts=attempt.all_attempts,
                invalid=attempt.invalid,
            )
        )
