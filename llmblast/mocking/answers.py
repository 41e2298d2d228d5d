"""Answers: make replies in OpenAI's form, or another API's, from the request and the seed.

A text is a plausible short answer from the prompt's own words, one word a token. The same request always has the same
answer; only `id` and `created` differ from reply to reply, as with a real provider. What a request asks for is done, or
it gets a 400 that names the parameter.
Form of requests, replies and errors: https://platform.openai.com/docs/api-reference
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import Any

import orjson

from llmblast.mocking import anthropic_messages, rankings, responses
from llmblast.mocking.bedrock_converse import ConverseRequest
from llmblast.mocking.chat import ChatRequest, check_chat
from llmblast.mocking.cloud_calls import CONVERSE, GENERATE, RAW_PREDICT, STREAM_GENERATE
from llmblast.mocking.completions import CompletionRequest
from llmblast.mocking.error_replies import BadRequestError, error_body
from llmblast.mocking.gemini_contents import ContentsRequest, events_of
from llmblast.mocking.messages import read_messages
from llmblast.mocking.models import Models
from llmblast.mocking.parameters import CHAT, COMPLETIONS, EMBEDDINGS, check_parameters
from llmblast.mocking.prompts import read_prompts
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.streaming import EVENT_STREAM
from llmblast.mocking.vectors import DEFAULT_DIMENSIONS, make_vector, pack_vector
from llmblast.mocking.wording import Writer

_PLAIN_CHAT = frozenset({"model", "messages", "max_tokens", "max_completion_tokens", "id", "custom_id"})
_PLAIN_COMPLETION = frozenset({"model", "prompt", "max_tokens"})
_FINGERPRINT = "fp_mock"


@dataclass(slots=True, eq=False)
class Answer:
    """A reply's status and body, the tokens that its `usage` tells, and the output that the request allows.

    `text` is what its first choice says; None where there is none, as for embeddings. A streamed answer has its
    `events`, of which `body` is made.
    """

    body: bytes
    status: int = 200
    prompt_tokens: int = 0
    output_tokens: int = 0
    most_output_tokens: int = 0
    text: str | None = None
    events: tuple[bytes, ...] = ()

    @property
    def content_type(self) -> str:
        """The media type of `body`."""
        return EVENT_STREAM if self.events else "application/json"


class Answers:
    """Answers request bodies; the settings that count are `seed`, `tokens`, `sigma`, `max_tokens` and `models`."""

    def __init__(self, settings: MockSettings, wall_clock: Callable[[], float] = time.time) -> None:
        self.models = Models(settings.models)
        self._key = settings.seed.to_bytes(8, "big")
        self._default_cap = settings.max_tokens
        self._writer = Writer(settings)
        self._wall_clock = wall_clock
        self._run = token_hex(6)
        self._numbers = count(1)
        self._makers: Mapping[str, Callable[[dict[str, Any]], Answer]] = {
            "chat/completions": self._chat,
            "completions": self._completion,
            "embeddings": self._embeddings,
            anthropic_messages.OPERATION: self._messages,
            RAW_PREDICT: self._messages_without_model,
            GENERATE: self._contents,
            STREAM_GENERATE: self._streamed_contents,
            CONVERSE: self._converse,
            responses.OPERATION: self._response,
            rankings.RERANK: self._ranking,
            rankings.COHERE_RERANK: self._cohere_ranking,
            rankings.SCORE: self._scores,
        }

    def answer(self, operation: str, body: bytes, model: str = "") -> Answer:
        """The reply to a body sent to `operation`, such as `chat/completions`; a body that will not do gets a 400.

        `model` is the one that the path names, if it does.
        """
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            message = f"We could not parse the JSON body of your request: {error}."
            return Answer(error_body(message, "invalid_request_error", None, "invalid_json"), 400)
        if not isinstance(asked, dict):
            message = "The body of your request must be a JSON object."
            return Answer(error_body(message, "invalid_request_error", None, "invalid_type"), 400)
        if model:
            asked = {**asked, "model": model}
        try:
            return self._makers[operation](asked)
        except BadRequestError as error:
            return Answer(error.body, error.status)

    def _chat(self, asked: dict[str, Any]) -> Answer:
        is_plain = asked.keys() <= _PLAIN_CHAT or check_chat(asked)
        model = self.models.name_of(asked)
        prompt, heard = read_messages(asked.get("messages"))
        cap = _chat_cap(asked)
        head = self._head("chatcmpl", "chat.completion", model)
        if not is_plain:
            return self._shaped_chat(ChatRequest(asked, self._writer, prompt, cap), head, heard)
        text, said, finish_reason = self._writer.write(prompt, cap)
        reply = {
            **head,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": finish_reason,
                }
            ],
            "system_fingerprint": _FINGERPRINT,
            "usage": _usage(heard, said),
        }
        return Answer(orjson.dumps(reply), 200, heard, said, self._most(cap), text)

    def _shaped_chat(self, request: ChatRequest, head: dict[str, object], heard: int) -> Answer:
        """Answer a chat that asks for more than a text."""
        choices = request.choices(lambda: self._identifier("call_"))
        heard += request.extra_tokens
        said = sum(len(choice.pieces) for choice in choices)
        tail: dict[str, object] = {"system_fingerprint": _FINGERPRINT, **request.tail}
        text = None if choices[0].call else choices[0].text
        most = len(choices) * self._most(request.cap)
        if request.is_streamed:
            usage = _usage(heard, said) if request.tells_usage else None
            events = request.events({**head, "object": "chat.completion.chunk", **tail}, choices, usage)
            return Answer(b"".join(events), 200, heard, said, most, text, events)
        reply = {**head, "choices": request.whole(choices), **tail, "usage": _usage(heard, said)}
        return Answer(orjson.dumps(reply), 200, heard, said, most, text)

    def _completion(self, asked: dict[str, Any]) -> Answer:
        is_plain = asked.keys() <= _PLAIN_COMPLETION
        check_parameters(asked, COMPLETIONS)
        model = self.models.name_of(asked)
        prompts, heard = read_prompts(asked.get("prompt"), "prompt")
        cap = asked.get("max_tokens")
        head = self._head("cmpl", "text_completion", model)
        if not is_plain:
            return self._shaped_completion(CompletionRequest(asked, self._writer, prompts), head, heard)
        wordings = [self._writer.write(prompt, cap) for prompt in prompts]
        choices = [
            {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
            for index, (text, _, finish_reason) in enumerate(wordings)
        ]
        said = sum([wording.tokens for wording in wordings])
        reply = {**head, "choices": choices, "usage": _usage(heard, said)}
        return Answer(orjson.dumps(reply), 200, heard, said, len(prompts) * self._most(cap), wordings[0].text)

    def _shaped_completion(self, request: CompletionRequest, head: dict[str, object], heard: int) -> Answer:
        """Answer a completion that asks for more than one text for each prompt."""
        choices, said = request.choices()
        heard += request.extra_tokens
        text = choices[0].text
        most = request.candidates * self._most(request.cap)
        if request.is_streamed:
            events = request.events(head, choices, _usage(heard, said) if request.tells_usage else None)
            return Answer(b"".join(events), 200, heard, said, most, text, events)
        reply = {**head, "choices": request.whole(choices), "usage": _usage(heard, said)}
        return Answer(orjson.dumps(reply), 200, heard, said, most, text)

    def _embeddings(self, asked: dict[str, Any]) -> Answer:
        check_parameters(asked, EMBEDDINGS)
        model = self.models.name_of(asked)
        inputs, heard = read_prompts(asked.get("input"), "input")
        dimensions = asked.get("dimensions") or DEFAULT_DIMENSIONS
        vectors: list[Any] = [make_vector(self._key, text, dimensions) for text in inputs]
        if asked.get("encoding_format") == "base64":
            vectors = [pack_vector(vector) for vector in vectors]
        reply = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": heard, "total_tokens": heard},
        }
        return Answer(orjson.dumps(reply), prompt_tokens=heard)

    def _messages(self, asked: dict[str, Any]) -> Answer:
        request = anthropic_messages.MessagesRequest(asked, self._writer, self._identifier)
        model = self.models.name_of(asked)
        head = {"id": self._identifier("msg_"), "type": "message", "role": "assistant", "model": model}
        events = request.events(head) if request.is_streamed else ()
        body = b"".join(events) if events else request.whole(head)
        said = len(request.choice.pieces)
        return Answer(body, 200, request.prompt_tokens, said, request.cap, request.text, events)

    def _messages_without_model(self, asked: dict[str, Any]) -> Answer:
        version = asked.pop("anthropic_version", None)
        if not isinstance(version, str):
            raise BadRequestError("anthropic_version: Field required", "anthropic_version")
        return self._messages(asked)

    def _contents(self, asked: dict[str, Any]) -> Answer:
        model = self.models.name_of(asked)
        request = ContentsRequest(asked, self._writer)
        most = len(request.choices) * self._most(request.cap)
        body = request.whole(model, self._identifier("resp-"))
        return Answer(body, 200, request.prompt_tokens, request.answer_tokens, most, request.text)

    def _streamed_contents(self, asked: dict[str, Any]) -> Answer:
        answer = self._contents(asked)
        answer.events = events_of(answer.body)
        answer.body = b"".join(answer.events)
        return answer

    def _converse(self, asked: dict[str, Any]) -> Answer:
        self.models.name_of(asked)
        request = ConverseRequest(asked, self._writer, self._identifier)
        said = len(request.choice.pieces)
        return Answer(request.whole(), 200, request.prompt_tokens, said, self._most(request.cap), request.text)

    def _response(self, asked: dict[str, Any]) -> Answer:
        request = responses.ResponsesRequest(asked, self._writer)
        reply = request.whole(self.models.name_of(asked), int(self._wall_clock()), self._identifier)
        said, most = len(request.choice.pieces), self._most(request.cap)
        return Answer(orjson.dumps(reply), 200, request.prompt_tokens, said, most, request.choice.text)

    def _ranking(self, asked: dict[str, Any]) -> Answer:
        reply, heard = rankings.rerank(asked, self.models.name_of(asked), self._identifier, is_cohere=False)
        return Answer(orjson.dumps(reply), prompt_tokens=heard)

    def _cohere_ranking(self, asked: dict[str, Any]) -> Answer:
        reply, heard = rankings.rerank(asked, self.models.name_of(asked), self._identifier, is_cohere=True)
        return Answer(orjson.dumps(reply), prompt_tokens=heard)

    def _scores(self, asked: dict[str, Any]) -> Answer:
        model, created_s = self.models.name_of(asked), int(self._wall_clock())
        reply, heard = rankings.score(asked, model, created_s, self._identifier)
        return Answer(orjson.dumps(reply), prompt_tokens=heard)

    def _head(self, prefix: str, kind: str, model: str) -> dict[str, object]:
        created = int(self._wall_clock())
        return {"id": self._identifier(f"{prefix}-"), "object": kind, "created": created, "model": model}

    def _identifier(self, prefix: str) -> str:
        return f"{prefix}{self._run}{next(self._numbers):08x}"

    def _most(self, cap: int | None) -> int:
        return self._default_cap if cap is None else cap


def _chat_cap(asked: Mapping[str, Any]) -> int | None:
    """Return the most output tokens of a chat: `max_tokens` in older bodies, `max_completion_tokens` in newer ones."""
    older, newer = asked.get("max_tokens"), asked.get("max_completion_tokens")
    for name, value in (("max_tokens", older), ("max_completion_tokens", newer)):
        if value is not None:
            CHAT[name](value, name)
    if older is not None and newer is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise BadRequestError(message, "max_tokens", "invalid_parameter_combination")
    cap: int | None = older if newer is None else newer
    return cap


def _usage(heard: int, said: int) -> dict[str, int]:
    return {"prompt_tokens": heard, "completion_tokens": said, "total_tokens": heard + said}
