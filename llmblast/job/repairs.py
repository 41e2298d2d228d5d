"""Repairs: what is sent for a line after an answer that does not fit.

First the request again, with the last answer and the reason behind it, up to `max_repairs` times; then, once, the
original request to another endpoint or model. Each is a new send, which waits for the same limits as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmblast.models import Answer, Attempt, InvalidAnswers, RawBody, Request
from llmblast.providers.conversations import ask_again, with_model
from llmblast.scheduling import Endpoint


@dataclass(frozen=True, slots=True)
class Escalation:
    """Where a line goes after its repairs: an endpoint, by the bits of all others, or a model."""

    closed_to: int = 0
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Repairs:
    """`kinds` are those of the endpoints' providers, in their order."""

    max_repairs: int
    kinds: Sequence[str]
    escalation: Escalation | None = None

    def next_attempt(self, attempt: Attempt, endpoint: Endpoint, answer: Answer, reason: str) -> Attempt | None:
        """Return what to send after an answer of `endpoint` that did not fit; None where nothing more is to be sent."""
        past = self.past_of(attempt, answer)
        if past.is_escalated:
            return None
        if past.repairs < self.max_repairs:
            request = self._asking_again(past.original, endpoint, answer, reason)
            past = replace(past, repairs=past.repairs + 1)
        elif self.escalation is not None:
            request = self._escalated(past.original, self.escalation)
            past = replace(past, is_escalated=True, in_reserve=self.escalation.model is None)
        else:
            return None
        following = Attempt(request)
        following.refused_by = attempt.refused_by
        following.invalid = past
        return following

    @staticmethod
    def past_of(attempt: Attempt, answer: Answer) -> InvalidAnswers:
        """Return what is known of the line with this answer, which did not fit either."""
        past = attempt.invalid or InvalidAnswers(attempt.request)
        return replace(
            past,
            attempts=attempt.all_attempts,
            maybe_billed=attempt.all_ambiguous_sends,
            prompt_tokens=past.prompt_tokens + (answer.prompt_tokens or 0),
            completion_tokens=past.completion_tokens + (answer.completion_tokens or 0),
        )

    def _asking_again(self, original: Request, endpoint: Endpoint, answer: Answer, reason: str) -> Request:
        """Return the request with the answer and the reason, in the form of the endpoint that gave the answer.

        Where that is another form than the line's first one, only endpoints of the same kind can take it.
        """
        kind, content = self.kinds[endpoint.index], original.content
        if content is None or isinstance(content, RawBody):
            body = ask_again(original.kind, original.path, original.body, answer.text, reason)
            return replace(original, body=body)
        path, body, needs_model = original.path, original.body, original.needs_model
        if kind != original.kind and content.renderings:
            rendering = content.renderings[kind]
            path, body, needs_model = rendering.path, rendering.body, rendering.needs_model
        return replace(
            original,
            path=path,
            body=ask_again(kind, path, body, answer.text, reason),
            kind=kind,
            content=None,
            needs_model=needs_model,
            closed_to=original.closed_to | self._all_but(kind),
        )

    def _escalated(self, original: Request, escalation: Escalation) -> Request:
        if escalation.model is None:
            return replace(original, closed_to=original.closed_to | escalation.closed_to)
        is_raw = original.content is None or isinstance(original.content, RawBody)
        return replace(
            original,
            body=with_model(original.body, escalation.model),
            content=original.content if is_raw else None,
            model=escalation.model,
            needs_model=False,
            closed_to=original.closed_to if is_raw else original.closed_to | self._all_but(original.kind),
        )

    def _all_but(self, kind: str) -> int:
        return sum(1 << index for index, other in enumerate(self.kinds) if other != kind)
