"""What the mock provider says: replies in OpenAI's form, made from the request and the seed alone.

A text is a plausible short answer from the prompt's own words, one word a token. The same request always has the same
reply, byte for byte, so nothing in it depends on the clock.
Form of requests, replies and errors: https://platform.openai.com/docs/api-reference
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b, shake_128
from statistics import NormalDist

import orjson

from llmblast.mocking.settings import MockSettings

OPERATIONS = ("chat/completions", "completions", "embeddings")
DEFAULT_MODEL = "mock"
DEFAULT_DIMENSIONS = 8
MAX_DIMENSIONS = 10_000
MAX_OUTPUT_TOKENS = 131_072
"""The longest reply of today's models, where the tail of a log-normal is cut off."""
CREATED = 1_735_689_600
"""Every reply was made at this moment (2025-01-01), or it would differ from run to run."""

_BYTES_PER_TOKEN = 4
_QUOTED_CHARACTERS = 2000
_NORMAL = NormalDist()
_DRAWS = 2.0**53
_WORD = re.compile(r"\w{1,24}")
_OPENINGS = (
    ["In", "short:"],
    ["The", "answer", "is:"],
    ["To", "sum", "up:"],
    ["It", "is", "about:"],
    ["Briefly:"],
)


@dataclass(slots=True, eq=False)
class Answer:
    """A reply's status and body, the tokens that its `usage` tells, and the output that the request allows.

    `text` is what its first choice says; None where there is none, as for embeddings.
    """

    body: bytes
    status: int = 200
    prompt_tokens: int = 0
    output_tokens: int = 0
    most_output_tokens: int = 0
    text: str | None = None


class _BadRequestError(Exception):
    """The body asks for something impossible; the arguments are those of `error_body`."""


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error in OpenAI's form; `kind` is its `type`."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def models_body() -> bytes:
    """The list of models, of which there is one."""
    model = {"id": DEFAULT_MODEL, "object": "model", "created": CREATED, "owned_by": "llmblast"}
    return orjson.dumps({"object": "list", "data": [model]})


class Answers:
    """Answers request bodies; the settings that count are `seed`, `tokens`, `sigma` and `max_tokens`."""

    def __init__(self, settings: MockSettings) -> None:
        self._key = settings.seed.to_bytes(8, "big")
        self._default_cap = settings.max_tokens
        self._sigma = settings.sigma
        # The mean of a log-normal is exp(mu + sigma^2 / 2).
        self._mu = math.log(settings.tokens) - settings.sigma**2 / 2
        self._fewest_tokens = max(1, settings.tokens // 2)
        self._spread = 2 * (settings.tokens - self._fewest_tokens) + 1
        self._makers: Mapping[str, Callable[[dict[str, object]], Answer]] = {
            "chat/completions": self._chat,
            "completions": self._completion,
            "embeddings": self._embeddings,
        }

    def answer(self, operation: str, body: bytes) -> Answer:
        """The reply to a body sent to `operation`, such as `chat/completions`; a body that will not do gets a 400."""
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            message = f"We could not parse the JSON body of your request: {error}."
            return Answer(error_body(message, "invalid_request_error", None, "invalid_json"), 400)
        if not isinstance(asked, dict):
            message = "The body of your request must be a JSON object."
            return Answer(error_body(message, "invalid_request_error", None, "invalid_type"), 400)
        try:
            return self._makers[operation](asked)
        except _BadRequestError as error:
            message, param, code = error.args
            return Answer(error_body(message, "invalid_request_error", param, code), 400)

    def _chat(self, asked: dict[str, object]) -> Answer:
        messages = asked.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _missing("messages")
        texts = [_text_of(message) for message in messages]
        # Newer bodies say max_completion_tokens, where both stand the newer name counts.
        cap = _positive(asked, "max_completion_tokens") or _positive(asked, "max_tokens")
        text, said, finish_reason, digest = self._say(texts[-1], cap)
        heard = _count(*texts)
        reply = {
            "id": f"chatcmpl-{digest:016x}",
            "object": "chat.completion",
            "created": CREATED,
            "model": _model(asked),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {"prompt_tokens": heard, "completion_tokens": said, "total_tokens": heard + said},
        }
        return Answer(orjson.dumps(reply), 200, heard, said, cap or self._default_cap, text)

    def _completion(self, asked: dict[str, object]) -> Answer:
        prompts = _texts(asked, "prompt")
        cap = _positive(asked, "max_tokens")
        choices: list[dict[str, object]] = []
        texts: list[str] = []
        said, digest = 0, 0
        for index, prompt in enumerate(prompts):
            text, count, finish_reason, digest = self._say(prompt, cap)
            choices.append({"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason})
            texts.append(text)
            said += count
        heard = _count(*prompts)
        reply = {
            "id": f"cmpl-{digest:016x}",
            "object": "text_completion",
            "created": CREATED,
            "model": _model(asked),
            "choices": choices,
            "usage": {"prompt_tokens": heard, "completion_tokens": said, "total_tokens": heard + said},
        }
        return Answer(orjson.dumps(reply), 200, heard, said, len(prompts) * (cap or self._default_cap), texts[0])

    def _embeddings(self, asked: dict[str, object]) -> Answer:
        inputs = _texts(asked, "input")
        dimensions = _positive(asked, "dimensions") or DEFAULT_DIMENSIONS
        if dimensions > MAX_DIMENSIONS:
            raise _BadRequestError(f"'dimensions' must be at most {MAX_DIMENSIONS}.", "dimensions", "invalid_value")
        heard = _count(*inputs)
        reply = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": self._vector(text, dimensions)}
                for index, text in enumerate(inputs)
            ],
            "model": _model(asked),
            "usage": {"prompt_tokens": heard, "total_tokens": heard},
        }
        return Answer(orjson.dumps(reply), prompt_tokens=heard)

    def _say(self, prompt: str, cap: int | None) -> tuple[str, int, str, int]:
        """The text, its tokens, the finish reason, and the number that all of it was drawn from."""
        digest = int.from_bytes(blake2b(prompt.encode(), digest_size=8, key=self._key).digest(), "big")
        words = _WORD.findall(prompt[:_QUOTED_CHARACTERS]) or ["nothing", "in", "particular"]
        start = (digest >> 16) % len(words)
        wanted = self._length(digest)
        rotated = words[start:] + words[:start]
        sentence = (_OPENINGS[(digest >> 8) % len(_OPENINGS)] + rotated * (wanted // len(rotated) + 1))[:wanted]
        if cap is not None and cap < wanted:
            return " ".join(sentence[:cap]), cap, "length", digest
        return " ".join(sentence) + ".", wanted, "stop", digest

    def _length(self, digest: int) -> int:
        if not self._sigma:
            return self._fewest_tokens + digest % self._spread
        deviations = _NORMAL.inv_cdf(((digest >> 11) + 0.5) / _DRAWS)
        return min(max(1, round(math.exp(self._mu + self._sigma * deviations))), MAX_OUTPUT_TOKENS)

    def _vector(self, text: str, dimensions: int) -> list[float]:
        """A unit vector; a longer one of the same text begins in the same direction."""
        noise = shake_128(self._key + text.encode()).digest(2 * dimensions)
        raw = struct.unpack(f"<{dimensions}h", noise)
        length = sum(number * number for number in raw) ** 0.5 or 1.0
        return [round(number / length, 6) for number in raw]


def _text_of(message: object) -> str:
    """A chat message's text; the parts that are no text, such as images, are passed over."""
    content = message.get("content") if isinstance(message, dict) else 0
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    raise _BadRequestError("'messages' must hold objects with text or parts as 'content'.", "messages", "invalid_type")


def _texts(asked: dict[str, object], name: str) -> list[str]:
    value = asked.get(name)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise _missing(name)
    texts = [text for text in value if isinstance(text, str)]
    if len(texts) != len(value):
        raise _BadRequestError(f"'{name}' must be a text or a list of texts.", name, "invalid_type")
    return texts


def _positive(asked: dict[str, object], name: str) -> int | None:
    value = asked.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _BadRequestError(f"'{name}' must be a whole number above 0.", name, "invalid_value")
    return value


def _model(asked: dict[str, object]) -> str:
    model = asked.get("model") or DEFAULT_MODEL
    if not isinstance(model, str):
        raise _BadRequestError("'model' must be a text.", "model", "invalid_type")
    return model


def _missing(name: str) -> _BadRequestError:
    return _BadRequestError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def _count(*texts: str) -> int:
    return max(1, sum(map(len, texts)) // _BYTES_PER_TOKEN)
