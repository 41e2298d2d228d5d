"""How many tokens a request will cost: a prompt ratio and an output quantile, learned from the provider's counts."""

from llmblast.records import Request

FIRST_TOKENS_PER_BYTE = 0.3
"""Before anything is known. English takes 0.25 in most tokenisers; too much is given back, too little draws a 429."""
FIRST_OUTPUT_TOKENS = 256.0
OUTPUT_QUANTILE = 0.9
_RATIO_GAIN = 0.05
_QUANTILE_STEP = 0.05


class TokenEstimator:
    """Learns one endpoint's tokens per request byte and a high quantile of its answers' lengths."""

    __slots__ = ("_output_tokens", "_tokens_per_byte")

    def __init__(self) -> None:
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE
        self._output_tokens = FIRST_OUTPUT_TOKENS

    def estimate(self, request: Request) -> float:
        """Prompt and output tokens, the output bounded by `max_tokens`."""
        output = self._output_tokens
        if request.max_tokens is not None and request.max_tokens < output:
            output = request.max_tokens
        return len(request.body) * self._tokens_per_byte + output

    def learn(self, request: Request, prompt_tokens: int, completion_tokens: int) -> None:
        """Follows one reply. The quantile moves by stochastic approximation (Robbins and Monro, 1951), its steps in
        proportion to its size, so that it is right for answers of ten tokens and of ten thousand.
        """
        if request.body:
            ratio = prompt_tokens / len(request.body)
            self._tokens_per_byte += _RATIO_GAIN * (ratio - self._tokens_per_byte)
        step = _QUANTILE_STEP * max(self._output_tokens, 1.0)
        if completion_tokens > self._output_tokens:
            self._output_tokens += step * OUTPUT_QUANTILE
        else:
            self._output_tokens -= step * (1.0 - OUTPUT_QUANTILE)
