"""Repairs: what is sent for a line after an answer that does not fit.

First the request again, with the last answer and the reason behind it, up to `max_repairs` times; then, once, the
original request to another endpoint or model. Each is a new send, which waits for the same limits as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmblast.models import Answer, Attempt, InvalidAnswers, Prompt, Request
from llmblast.provider_contract import Provider, writes_model
from llmblast.providers.conversations import ask_again, prompt_again
from llmblast.providers.other_models import with_model
from llmblast.scheduling import Endpoint


@dataclass(frozen=True, slots=True)
class Escalation:
    """Where a line goes after its repairs: an endpoint, or a model."""

    closed_to: int = 0
    """Bits of all other endpoints, or of those that cannot name the model."""
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Repairs:
    """`providers` are those of the endpoints, in their order."""

    max_repairs: int
    providers: Sequence[Provider]
    escalation: Escalation | None = None

    def next_attempt(self, attempt: Attempt, endpoint: Endpoint, answer: Answer, reason: str) -> Attempt | None:
        """Return what to send after an answer of `endpoint` that did not fit; None where nothing more is to be sent."""
        past = self.past_of(attempt, answer)
        if past.is_escalated:
            return None
        if past.repairs < self.max_repairs:
            request = self._asking_again(past.original, endpoint, answer, reason)
            past = replace(past, repairs=past.repairs + 1)
        elif self.escalation is not None and not self._is_goal(endpoint, self.escalation):
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
        provider, content = self.providers[endpoint.index], original.content
        if not isinstance(content, Prompt):
            provider = self._first_of(original.kind)
            return replace(original, body=ask_again(provider, original.path, original.body, answer.text, reason))
        path, body, needs_model = original.path, original.body, original.needs_model
        if provider.kind != original.kind and content.renderings:
            rendering = content.renderings[provider.kind]
            path, body, needs_model = rendering.path, rendering.body, rendering.needs_model
        if writes_model(provider):
            path, body = provider.render(prompt_again(content, answer.text, reason))
        else:
            body = ask_again(provider, path, body, answer.text, reason)
        return replace(
            original,
            path=path,
            body=body,
            kind=provider.kind,
            content=None,
            needs_model=needs_model,
            closed_to=original.closed_to | self._all_but(provider.kind),
        )

    def _escalated(self, original: Request, escalation: Escalation) -> Request:
        request = replace(original, closed_to=original.closed_to | escalation.closed_to)
        if escalation.model is None:
            return request
        return with_model(request, escalation.model, self._first_of(original.kind))

    @staticmethod
    def _is_goal(endpoint: Endpoint, escalation: Escalation) -> bool:
        """Return whether lines that are escalated go to the endpoint, and nowhere else."""
        return escalation.model is None and not escalation.closed_to & endpoint.bit

    def _first_of(self, kind: str) -> Provider:
        return next(provider for provider in self.providers if provider.kind == kind)

    def _all_but(self, kind: str) -> int:
        return sum(1 << index for index, other in enumerate(self.providers) if other.kind != kind)
