"""Completion requests that ask for more than one text for each prompt: several choices, an echo, a stream."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmblast.mocking.checks import texts_of
from llmblast.mocking.choices import Choice, Maker
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.logprobs import completion_logprobs
from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.parameters import MAX_CHOICES, check_stream_options
from llmblast.mocking.streaming import completion_chunks, make_events
from llmblast.mocking.wording import Writer, pieces_of, salt_of


class CompletionRequest:
    """One request whose parameters were checked one by one; raises BadRequestError for what does not go together."""

    def __init__(self, asked: Mapping[str, Any], writer: Writer, prompts: Sequence[str]) -> None:
        self._asked = asked
        self._writer = writer
        self._prompts = prompts
        self._count = asked.get("n") or 1
        self._best_of = asked.get("best_of") or self._count
        self._suffix = asked.get("suffix") or ""
        self._echoes = bool(asked.get("echo"))
        self._top: int | None = asked.get("logprobs")
        self.cap: int | None = asked.get("max_tokens")
        self.is_streamed, self.tells_usage = check_stream_options(asked)
        self.candidates = self._best_of * len(prompts)
        self._check()

    @property
    def extra_tokens(self) -> int:
        """The prompt tokens of the suffix."""
        return len(self._suffix) // BYTES_PER_TOKEN

    def choices(self) -> tuple[list[Choice], int]:
        """Return what is answered, prompt by prompt, and the tokens of all candidates, of which those are the best."""
        choices: list[Choice] = []
        said = 0
        stops, seed = texts_of(self._asked.get("stop")), self._asked.get("seed")
        for prompt in self._prompts:
            maker = Maker(self._writer, f"{prompt} {self._suffix}" if self._suffix else prompt, stops, self.cap)
            candidates = [maker.say(salt_of(seed, index)) for index in range(self._best_of)]
            said += sum(len(candidate.pieces) for candidate in candidates)
            echo = pieces_of(prompt) if self._echoes else []
            choices += [
                Choice([*echo, *candidate.pieces], candidate.finish_reason) for candidate in candidates[: self._count]
            ]
        return choices, said

    def whole(self, choices: Sequence[Choice]) -> list[dict[str, object]]:
        """Return `choices` of a reply that is read whole."""
        return [
            {
                "index": index,
                "text": choice.text,
                "logprobs": None
                if self._top is None
                else completion_logprobs(choice.pieces, self._top, self._offset(index), has_first=self._echoes),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]

    def events(
        self, head: Mapping[str, object], choices: Sequence[Choice], usage: Mapping[str, int] | None
    ) -> tuple[bytes, ...]:
        """Return the events of a streamed reply."""
        chunks = [
            completion_chunks(index, choice, self._top, self._offset(index), has_first=self._echoes)
            for index, choice in enumerate(choices)
        ]
        return make_events(head, chunks, usage)

    def _offset(self, index: int) -> int:
        """Return where a choice's first token begins: after its prompt, unless that is part of the choice."""
        return 0 if self._echoes else len(self._prompts[index // self._count])

    def _check(self) -> None:
        if self._best_of < self._count:
            message = (
                f"Invalid 'best_of': must be at least 'n'. Expected a value >= {self._count}, but got {self._best_of}."
            )
            raise BadRequestError(message, "best_of", "invalid_value")
        if self.is_streamed and self._best_of > self._count:
            raise BadRequestError(
                "Invalid 'best_of': the best of several cannot be streamed.", "best_of", "invalid_value"
            )
        if self.candidates > MAX_CHOICES * MAX_CHOICES:
            message = (
                f"Invalid 'prompt': {self.candidates} choices were requested, {MAX_CHOICES * MAX_CHOICES} are the most."
            )
            raise BadRequestError(message, "prompt", "array_above_max_length")
