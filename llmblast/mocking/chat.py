"""Chat requests that ask for more than a text: several choices, JSON, tool calls, log probabilities, a stream."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from llmblast.mocking.checks import texts_of
from llmblast.mocking.choices import Choice, Maker
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.logprobs import chat_logprobs
from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.parameters import CHAT, check_parameters, check_stream_options
from llmblast.mocking.response_format import read_format
from llmblast.mocking.streaming import chat_chunks, make_events
from llmblast.mocking.tools import read_demand
from llmblast.mocking.wording import Writer, salt_of

_SHAPING = frozenset(
    {
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "service_tier",
    }
)
"""Parameters that change the answer; of the others, such as the temperature, only the range is checked."""
_COUNTED = ("tools", "functions", "response_format")


def check_chat(asked: Mapping[str, object]) -> bool:
    """Check all parameters; return whether the answer is a plain one. Raises BadRequestError."""
    check_parameters(asked, CHAT)
    return _SHAPING.isdisjoint(asked)


class ChatRequest:
    """One request whose parameters were checked one by one; raises BadRequestError for what does not go together."""

    def __init__(self, asked: Mapping[str, Any], writer: Writer, prompt: str, cap: int | None) -> None:
        self._asked = asked
        self._maker = Maker(writer, prompt, texts_of(asked.get("stop")), cap)
        self.cap = cap
        self._demand = read_demand(asked)
        self._format = read_format(asked)
        self._top = _top_logprobs(asked)
        self.is_streamed, self.tells_usage = check_stream_options(asked)

    @property
    def extra_tokens(self) -> int:
        """The prompt tokens of tools and schemas."""
        given = [self._asked[name] for name in _COUNTED if self._asked.get(name) is not None]
        return sum(len(orjson.dumps(value)) for value in given) // BYTES_PER_TOKEN

    @property
    def tail(self) -> dict[str, object]:
        """Return the fields of the reply that repeat the request."""
        tier = self._asked.get("service_tier")
        return {} if tier is None else {"service_tier": "default" if tier == "auto" else tier}

    def choices(self, make_id: Callable[[], str]) -> list[Choice]:
        """Return what is answered; `make_id` names a call."""
        seed = self._asked.get("seed")
        return [self._choice(salt_of(seed, index), make_id) for index in range(self._asked.get("n") or 1)]

    def whole(self, choices: Sequence[Choice]) -> list[dict[str, object]]:
        """Return `choices` of a reply that is read whole."""
        return [
            {
                "index": index,
                "message": choice.call.message
                if choice.call
                else {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None if self._top is None or choice.call else chat_logprobs(choice.pieces, self._top),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]

    def events(
        self, head: Mapping[str, object], choices: Sequence[Choice], usage: Mapping[str, int] | None
    ) -> tuple[bytes, ...]:
        """Return the events of a streamed reply."""
        chunks = [chat_chunks(index, choice, self._top) for index, choice in enumerate(choices)]
        return make_events(head, chunks, usage)

    def _choice(self, salt: bytes, make_id: Callable[[], str]) -> Choice:
        if self._demand is not None:
            return self._maker.call(self._demand, make_id(), salt)
        return self._maker.say(salt) if self._format is None else self._maker.say_json(self._format, salt)


def _top_logprobs(asked: Mapping[str, Any]) -> int | None:
    """Return how many alternatives each token has; None without log probabilities."""
    top = asked.get("top_logprobs")
    if asked.get("logprobs"):
        return top or 0
    if top is not None:
        message = "Invalid value for 'top_logprobs': 'top_logprobs' is only allowed when 'logprobs' is enabled."
        raise BadRequestError(message, "top_logprobs", "invalid_value")
    return None
