"""Streamed answers: the server-sent events of chats and completions, and when each goes out.

Source of the form: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

import orjson

from llmblast.mocking.choices import Choice
from llmblast.mocking.logprobs import chat_logprobs, completion_logprobs

DONE = b"data: [DONE]\n\n"
EVENT_STREAM = "text/event-stream; charset=utf-8"
FIRST_SHARE = 0.5
"""Share of a streamed answer's latency until its first token; the others come evenly in the rest."""
_SHORTEST_PAUSE_S = 0.005
"""Several tokens come together rather than more often than this."""

Head = Mapping[str, object]
_Chunk = dict[str, object]


def event(value: object) -> bytes:
    """Return one event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def make_events(head: Head, chunks: Iterable[Iterable[_Chunk]], usage: Mapping[str, int] | None) -> tuple[bytes, ...]:
    """Return all events of an answer; `chunks` has those of each choice, which take turns.

    With `usage` it comes in an event of its own before the end, and is null in all others.
    """
    tail = {} if usage is None else {"usage": None}
    events = [
        event({**head, "choices": [chunk], **tail})
        for together in zip_longest(*chunks)
        for chunk in together
        if chunk is not None
    ]
    if usage is not None:
        events.append(event({**head, "choices": [], "usage": usage}))
    return (*events, DONE)


def chat_chunks(index: int, choice: Choice, top: int | None) -> Iterator[_Chunk]:
    """Yield one choice's chunks: the role, each token, the finish reason. `top` is None without log probabilities."""

    def chunk(delta: _Chunk, logprobs: object = None, finish_reason: str | None = None) -> _Chunk:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    make_delta, first = _deltas(choice)
    yield chunk(first)
    for number, piece in enumerate(choice.pieces):
        is_told = top is not None and choice.call is None
        yield chunk(make_delta(piece), chat_logprobs([piece], top or 0, number) if is_told else None)
    yield chunk({}, None, choice.finish_reason)


def completion_chunks(index: int, choice: Choice, top: int | None, offset: int, *, has_first: bool) -> Iterator[_Chunk]:
    """Yield one choice's chunks: each token, the finish reason."""
    for number, piece in enumerate(choice.pieces):
        is_first = has_first and not number
        logprobs = None if top is None else completion_logprobs([piece], top, offset, number, has_first=is_first)
        offset += len(piece)
        yield {"index": index, "text": piece, "logprobs": logprobs, "finish_reason": None}
    yield {"index": index, "text": "", "logprobs": None, "finish_reason": choice.finish_reason}


def pace(events: Sequence[bytes], total_s: float) -> Iterator[bytes | float]:
    """Yield events and the pauses between them, in seconds, which last `total_s` together."""
    pauses = min(len(events) - 1, int(total_s / _SHORTEST_PAUSE_S))
    if pauses < 1:
        yield b"".join(events)
        return
    done = 0
    for number in range(pauses + 1):
        until = len(events) * (number + 1) // (pauses + 1)
        yield b"".join(events[done:until])
        done = until
        if number < pauses:
            yield total_s / pauses


def _deltas(choice: Choice) -> tuple[Callable[[str], _Chunk], _Chunk]:
    """Return what makes a token's delta, and the first delta, which has the role."""
    role = {"role": "assistant", "refusal": None}
    call = choice.call
    if call is None:
        return lambda piece: {"content": piece}, {**role, "content": ""}
    function = {"name": call.name, "arguments": ""}
    if call.call_id is None:
        first: _Chunk = {**role, "content": None, "function_call": function}
        return lambda piece: {"function_call": {"arguments": piece}}, first
    named = [{"index": 0, "id": call.call_id, "type": "function", "function": function}]
    return (
        lambda piece: {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]},
        {**role, "content": None, "tool_calls": named},
    )
