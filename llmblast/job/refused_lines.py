"""Refused lines: decide whether they, their model or their endpoint are to blame, by what other lines meet.

`scheduling.refusals` keeps the evidence. A line that all endpoints have refused waits as a suspect until it shows.
"""

from collections.abc import Iterable
from dataclasses import replace

from llmblast.errors import ExitCode
from llmblast.job.decisions import Decision, Decisions, Stop
from llmblast.job.hedged_sends import HedgedSends
from llmblast.job.line_ends import LineEnds
from llmblast.job.suspects import Suspect, Suspects
from llmblast.models import Attempt
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.scheduling.refusals import BreakerState
from llmblast.sending import Blame, Verdict


class RefusedLines:
    """Decides on lines that were refused for good, and disables endpoints and models that refuse all lines."""

    def __init__(self, scheduler: Scheduler, line_ends: LineEnds, hedges: HedgedSends) -> None:
        self._scheduler = scheduler
        self._line_ends = line_ends
        self._hedges = hedges
        self.suspects = Suspects()

    def on_refusal(self, suspect: Suspect) -> Decisions:
        """Send a refused line elsewhere. Where no endpoint is left that has not refused it, it waits as a suspect."""
        attempt, endpoint, _, verdict, _ = suspect
        decisions: Decisions = ()
        if verdict.blame is Blame.LINE or self._scheduler.pool.can_take(attempt):
            decisions = self._go_elsewhere_or_fail(suspect, verdict)
        elif not self._hedges.defers_to_peer(attempt):
            self.suspects.add(suspect)
        return (*decisions, *self.take_out_refusing(attempt, endpoint, verdict))

    def on_answer(self, answered: Attempt, endpoint: Endpoint) -> Decisions:
        """Fail the suspects that an answer at their endpoint shows to be to blame."""
        shown = self.suspects.take(lambda suspect: suspect.is_shown_by(answered, endpoint))
        return _joined(self._line_ends.fail(s.attempt, s.endpoint, s.reply, s.verdict) for s in shown)

    def decide_timed_out(self, now: float) -> Decisions:
        """Decide on suspects for which no other line shows anything soon."""
        return _joined(map(self._decide, self.suspects.take(lambda suspect: suspect.has_timed_out(now))))

    def decide_all(self) -> Decisions:
        """Decide on all suspects: there are no other lines."""
        return _joined(map(self._decide, self.suspects.take_all()))

    def take_out_refusing(self, attempt: Attempt, endpoint: Endpoint, verdict: Verdict) -> Decisions:
        """Take out the endpoint, or the model there, whose circuit breaker has opened."""
        decisions: Decisions = ()
        if endpoint.health.refusals.state is BreakerState.OPEN and endpoint.health.disabled is None:
            decisions = self._take_out(endpoint, verdict)
        model = endpoint.models.get(attempt.request.model)
        if model is None or model.refusals.state is not BreakerState.OPEN or model.reason:
            return decisions
        model.reason, name = verdict.message, model.name
        lost = self.suspects.take(lambda s: s.was_refused_by(endpoint) and s.attempt.request.model == name)
        elsewhere = (self._go_elsewhere_or_fail(s, replace(s.verdict, transient=True)) for s in lost)
        return (*decisions, *_joined(elsewhere))

    def _decide(self, suspect: Suspect) -> Decisions:
        """Decide on a suspect when no other line shows more.

        Take out a suspected endpoint, unless it has answered a line that was sent with this one or later; for one that
        never answered, the words of the reply decide. Else the line fails; if little points to it, another run tries it
        again.
        """
        attempt, verdict = suspect.attempt, suspect.verdict
        is_unknown_path = verdict.is_not_found and attempt.request.model is None
        blames_endpoint = verdict.blame is Blame.ENDPOINT or is_unknown_path
        decisions: list[Decision] = []
        for endpoint in self._scheduler.pool.enabled:
            breaker = endpoint.health.refusals
            is_blamed = blames_endpoint and endpoint is suspect.endpoint and not breaker.has_answered
            is_suspected = breaker.is_suspected and endpoint.traffic.last_answered_sent_s < attempt.sent_s
            if suspect.was_refused_by(endpoint) and (is_suspected or is_blamed):
                decisions += self._take_out(endpoint, verdict)
        is_unclear = suspect.endpoint.health.refusals.is_suspected or not suspect.is_likely_to_blame
        is_transient = verdict.transient or is_unclear
        return (*decisions, *self._go_elsewhere_or_fail(suspect, replace(verdict, transient=is_transient)))

    def _go_elsewhere_or_fail(self, suspect: Suspect, verdict: Verdict) -> Decisions:
        """Send a refused line to an endpoint that has not refused it; keep it where all are out; else it fails."""
        attempt, endpoint, reply, _, since_s = suspect
        if self._scheduler.pool.can_take(attempt) or self._scheduler.pool.is_exhausted:
            return self._line_ends.retry(attempt, since_s)
        return self._line_ends.fail(attempt, endpoint, reply, verdict)

    def _take_out(self, endpoint: Endpoint, verdict: Verdict) -> Decisions:
        """Send nothing to the endpoint any more. Its suspects stay pending where all are out; those that others have
        refused, too, go on waiting for what lines meet there.
        """
        reason = endpoint.health.last_error
        if verdict.is_not_found and not endpoint.traffic.answers:
            reason += "; it has never answered: check its URL and its model"
        self._scheduler.pool.disable(endpoint, reason)
        decisions: list[Decision] = []
        if self._scheduler.pool.is_exhausted:
            all_reasons = "; ".join(
                f"{e.name}: {e.health.disabled}" for e in self._scheduler.endpoints if e.health.disabled
            )
            decisions.append(Stop(ExitCode.REFUSED, f"all endpoints rejected the requests: {all_reasons}"))
        enabled = self._scheduler.pool.enabled
        for suspect in self.suspects.take(lambda suspect: not any(map(suspect.was_refused_by, enabled))):
            decisions += self._line_ends.retry(suspect.attempt, suspect.since_s)
        return decisions


def _joined(parts: Iterable[Decisions]) -> Decisions:
    return [decision for part in parts for decision in part]
