"""Answer review: what becomes of an answer where its form is checked, or where bad answers end the run.

`ResponseHandler` hands each answer to it instead of to `LineEnds.succeed`. A run without these settings has no review.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmblast.checking_answers import AnswerChecks, AnswerCommand, Finding
from llmblast.checking_answers.command import CommandBrokenError
from llmblast.errors import ExitCode
from llmblast.hiding import hide_user, hide_user_bytes
from llmblast.job.canary import Canary, Quality
from llmblast.job.decisions import DONE, Decisions, SendNext, Stop
from llmblast.job.line_ends import LineEnds
from llmblast.job.repairs import Repairs
from llmblast.models import Answer, Attempt, Failure, Line, Outcome, Reply
from llmblast.providers.finish_reasons import is_filtered, is_flagged, says_refusal
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.sending import Verdict
from llmblast.watching import Counters

INVALID_ANSWER = "invalid_answer"


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """The checks that answers of a run have to pass, and what follows where they do not."""

    checks: AnswerChecks | None
    repairs: Repairs
    canary: Canary | None

    @property
    def command(self) -> AnswerCommand | None:
        """Return the command that answers have to pass, if there is one."""
        return None if self.checks is None else self.checks.command


class _Answered(NamedTuple):
    """An answer, and the request that it came to."""

    attempt: Attempt
    endpoint: Endpoint
    reply: Reply
    answer: Answer


@dataclass(slots=True, eq=False)
class AnswerReview:
    """`run_task` starts a task that the run waits for; `on_late_decisions` gets what follows from an answer for which a
    command had to be awaited.
    """

    rules: AnswerRules
    scheduler: Scheduler
    line_ends: LineEnds
    counters: Counters
    run_task: Callable[[Coroutine[Any, Any, None]], object]
    on_late_decisions: Callable[[Decisions], None]

    def on_answer(self, attempt: Attempt, endpoint: Endpoint, reply: Reply, answer: Answer) -> Decisions:
        """Record an answer that fits, or decide what follows from one that does not."""
        checks, answered = self.rules.checks, _Answered(attempt, endpoint, reply, answer)
        finding = Finding() if checks is None else checks.find(answer.text)
        if checks is not None and checks.command is not None and finding.problem is None:
            self.run_task(self._ask_command(checks.command, answered, finding))
            return DONE
        return self._conclude(answered, finding)

    def on_verdict(self, attempt: Attempt, endpoint: Endpoint, reply: Reply, verdict: Verdict) -> Decisions:
        """Count a reply without an answer that was paid for, as an empty one."""
        if self.rules.canary is None or reply.cause is not None or not verdict.was_used:
            return DONE
        stop = self.rules.canary.add(Quality.EMPTY, attempt.request.number, endpoint.name)
        return stop or (self.rules.canary.on_outage() if self.scheduler.queue.is_outage else DONE)

    async def _ask_command(self, command: AnswerCommand, answered: _Answered, finding: Finding) -> None:
        try:
            problem = await command.find_problem(str(answered.answer.text))
        except CommandBrokenError as error:
            self.on_late_decisions((Stop(ExitCode.GAVE_UP, hide_user(str(error))),))
            return
        self.on_late_decisions(self._conclude(answered, Finding(problem, finding.parsed)))

    def _conclude(self, answered: _Answered, finding: Finding) -> Decisions:
        attempt, endpoint, reply, answer = answered
        stop: Decisions = DONE
        if self.rules.canary is not None:
            quality = _quality_of(answer, reply, finding)
            stop = self.rules.canary.add(quality, attempt.request.number, endpoint.name)
        if finding.problem is None:
            self.line_ends.succeed(attempt, endpoint, reply, answer, finding.parsed)
            return stop
        return (*stop, *self._on_invalid(answered, hide_user(finding.problem)))

    def _on_invalid(self, answered: _Answered, problem: str) -> Decisions:
        """Send the line again, or record that it has no answer that fits. The endpoint has answered: none of this
        counts against it.
        """
        attempt, endpoint, reply, answer = answered
        attempt.attempts += 1
        self._count(endpoint, answer, reply.via)
        if is_flagged(answer.finish_reason):
            problem = f"{problem} (the answer was cut off: finish_reason {answer.finish_reason})"
        following = self.rules.repairs.next_attempt(attempt, endpoint, answer, problem)
        if following is not None and following.invalid is not None:
            is_escalated = following.invalid.is_escalated
            if not is_escalated or self.scheduler.pool.can_take(following):
                self.counters.escalated += is_escalated
                self.counters.repairs += not is_escalated
                return (SendNext(following),)
        return self.line_ends.record_failure(
            Failure(
                line=attempt.request,
                error=problem,
                code=INVALID_ANSWER,
                status=reply.status,
                endpoint=endpoint.name,
                attempts=attempt.all_attempts + attempt.rejections,
                maybe_billed=attempt.all_ambiguous_sends + attempt.unusable_replies,
                body=hide_user_bytes(reply.body),
                reply=reply,
                invalid=self.rules.repairs.past_of(attempt, answer),
            )
        )

    def _count(self, endpoint: Endpoint, answer: Answer, via: str) -> None:
        counters, mine = self.counters, self.counters.endpoints[endpoint.index]
        prompt_tokens, completion_tokens = answer.prompt_tokens or 0, answer.completion_tokens or 0
        counters.invalid += 1
        counters.invalid_prompt_tokens += prompt_tokens
        counters.invalid_completion_tokens += completion_tokens
        counts = prompt_tokens, answer.cached_tokens, completion_tokens, answer.write_surcharge
        mine.used.all.add(*counts)
        if via:
            mine.used.add_by_way(via, *counts)


class CheckedSink:
    """The sink of a run whose answers a command checks: it is full, too, while many of them wait for the command."""

    def __init__(self, sink: Any, command: AnswerCommand) -> None:
        self._sink = sink
        self._command = command

    @property
    def is_full(self) -> bool:
        return self._command.is_busy or bool(self._sink.is_full)

    def put(self, outcome: Outcome) -> None:
        """Take the outcome."""
        self._sink.put(outcome)

    def leave_out(self, line: Line) -> None:
        """See `Sink`."""
        self._sink.leave_out(line)


def _quality_of(answer: Answer, reply: Reply, finding: Finding) -> Quality:
    """Return what the answer is good for. One without a text may be a call of a tool, or of another API."""
    if is_filtered(answer.finish_reason):
        return Quality.REFUSED
    text = answer.text
    has_no_text = text is None or (isinstance(text, str) and not text.strip())
    if has_no_text and answer.says_more and says_refusal(reply.body):
        return Quality.REFUSED
    if is_flagged(answer.finish_reason):
        return Quality.CUT_OFF
    if has_no_text and text is not None and not answer.says_more:
        return Quality.EMPTY
    return Quality.GOOD if finding.problem is None else Quality.INVALID
