"""Token estimates: learn a prompt ratio and an output quantile from the provider's counts."""

from collections.abc import Iterable
from typing import Literal

from llmblast.models import NO_TOKENS, Answer, Attempt, Request, Tokens

FIRST_TOKENS_PER_BYTE = 0.3
"""Estimate before the first answer. English has 0.25 in most tokenisers; too much is given back, too little leads to
a 429."""
FIRST_OUTPUT_TOKENS = 256.0
OUTPUT_QUANTILE = 0.9
_RATIO_GAIN = 0.05
_QUANTILE_STEP = 0.05


class TokenEstimator:
    """Learn one endpoint's tokens per request byte and a high quantile of its answers' lengths.

    `charge` is `usage` where the provider's limits count the tokens really used, `max_tokens` where they count those of
    a request up front and give nothing back (OpenAI's and Azure's rate limits do).
    """

    def __init__(self, charge: Literal["usage", "max_tokens"] = "usage") -> None:
        self.charge = charge
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE
        self._output_tokens = FIRST_OUTPUT_TOKENS

    def estimate(self, request: Request) -> Tokens:
        """Return the tokens that a request will be charged, those of the answer bounded by `max_tokens`."""
        prompt = (len(request.body) - request.image_bytes) * self._tokens_per_byte + request.image_tokens
        bound, output = request.max_tokens, self._output_tokens
        if bound is not None and (bound < output or self.charge == "max_tokens"):
            output = float(bound)
        return prompt + output, prompt, output

    def count_tokens(self, attempt: Attempt, answer: Answer) -> Tokens:
        """Return the tokens that an answered request was charged; the estimate where the provider did not count."""
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return attempt.tokens_paid
        prompt = float(answer.prompt_tokens)
        output = attempt.tokens_paid[2] if self.charge == "max_tokens" else float(answer.completion_tokens)
        return prompt + output, prompt, output

    def learn(self, request: Request, answer: Answer) -> None:
        """Learn from one reply. The quantile moves by stochastic approximation (Robbins and Monro, 1951), its steps in
        proportion to its size, so that it is right for answers of ten tokens and of ten thousand.
        """
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return
        if request.body and not request.image_bytes:
            ratio = answer.prompt_tokens / len(request.body)
            self._tokens_per_byte += _RATIO_GAIN * (ratio - self._tokens_per_byte)
        step = _QUANTILE_STEP * max(self._output_tokens, 1.0)
        if answer.completion_tokens > self._output_tokens:
            self._output_tokens += step * OUTPUT_QUANTILE
        else:
            self._output_tokens -= step * (1.0 - OUTPUT_QUANTILE)


def max_tokens_of(estimates: Iterable[Tokens]) -> Tokens:
    """Return the largest count of each kind: one estimate serves both levels, before an endpoint is chosen."""
    kinds = tuple(zip(*estimates, strict=True))
    return (max(kinds[0]), max(kinds[1]), max(kinds[2])) if kinds else NO_TOKENS
