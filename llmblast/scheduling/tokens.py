"""How many tokens a request will cost: a prompt ratio and an output quantile, learned from the provider's counts."""

from collections.abc import Iterable
from typing import Literal

from llmblast.records import NO_TOKENS, Answer, Attempt, Request, Tokens

FIRST_TOKENS_PER_BYTE = 0.3
"""Before anything is known. English takes 0.25 in most tokenisers; too much is given back, too little draws a 429."""
FIRST_OUTPUT_TOKENS = 256.0
OUTPUT_QUANTILE = 0.9
_RATIO_GAIN = 0.05
_QUANTILE_STEP = 0.05


class TokenEstimator:
    """Learns one endpoint's tokens per request byte and a high quantile of its answers' lengths.

    `charge` is `usage` where the provider's limits count what was really used, `max_tokens` where they count that of a
    request up front and give nothing back (OpenAI's and Azure's rate limits do).
    """

    __slots__ = ("_output_tokens", "_tokens_per_byte", "charge")

    def __init__(self, charge: Literal["usage", "max_tokens"] = "usage") -> None:
        self.charge = charge
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE
        self._output_tokens = FIRST_OUTPUT_TOKENS

    def estimate(self, request: Request) -> Tokens:
        """What a request will be charged, the answer bounded by `max_tokens`."""
        prompt = (len(request.body) - request.image_bytes) * self._tokens_per_byte + request.image_tokens
        bound, output = request.max_tokens, self._output_tokens
        if bound is not None and (bound < output or self.charge == "max_tokens"):
            output = bound
        return prompt + output, prompt, output

    def charged(self, attempt: Attempt, answer: Answer) -> Tokens:
        """What an answered request was charged in the end; the estimate where the provider did not count."""
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return attempt.tokens_paid
        prompt: float = answer.prompt_tokens
        output = attempt.tokens_paid[2] if self.charge == "max_tokens" else answer.completion_tokens
        return prompt + output, prompt, output

    def learn(self, request: Request, answer: Answer) -> None:
        """Follows one reply. The quantile moves by stochastic approximation (Robbins and Monro, 1951), its steps in
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


def dearest(estimates: Iterable[Tokens]) -> Tokens:
    """The largest of each kind: one estimate then serves both levels, before an endpoint is chosen."""
    kinds = tuple(zip(*estimates, strict=True))
    return (max(kinds[0]), max(kinds[1]), max(kinds[2])) if kinds else NO_TOKENS
