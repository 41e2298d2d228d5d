"""Result queue: the sink of a run whose outcomes stay in memory. They leave in batches, to the caller that iterates.

It is full, and the run sends nothing more, while the results that were not taken yet, or are still being worked off,
are too many or too large: each was paid for, and is lost if the consumer stops here.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import orjson

from llmblast.models import Failure, InvalidAnswers, Line, Outcome, Request, Success
from llmblast.results import Result

FULL_BYTES = 8 * 1024 * 1024
MIN_RESULTS = 256
RESULTS_PER_SLOT = 4
_RESULT_BYTES = 1000
"""What a result takes beside its texts, roughly."""


class ResultQueue:
    """Take outcomes without a wait, and give results in batches. `changed` is set once there is room again."""

    failure: None = None
    """No output can fail: there is none."""

    def __init__(self, *, echo: bool, body: str, max_in_flight: int) -> None:
        self.is_full = False
        self.changed = asyncio.Event()
        self._echo = echo
        self._body = body
        self._max_results = max(MIN_RESULTS, RESULTS_PER_SLOT * max_in_flight)
        self._ready: list[Result] = []
        self._ready_bytes = 0
        self._taken = 0
        self._taken_bytes = 0
        self._has_ended = False
        self._arrived: asyncio.Future[None] | None = None

    def put(self, outcome: Outcome) -> None:
        """Take the outcome, full or not."""
        if isinstance(outcome, Success):
            line: Line = outcome.request
            self._ready.append(_success(outcome, self._echo, self._body))
        else:
            line = outcome.line
            self._ready.append(_failure(outcome, self._echo))
        self._ready_bytes += _RESULT_BYTES + len(line.text) + (len(outcome.reply.body) if outcome.reply else 0)
        if self._is_over(1):
            self.is_full = True
        self._wake()

    def leave_out(self, line: Line) -> None:
        """Do nothing: the line gets no result in this run."""

    async def take(self) -> list[Result]:
        """Return what has arrived; nothing after the end. With this call, the batch before it counts as worked off."""
        self._taken = self._taken_bytes = 0
        if self.is_full and not self._is_over(2):
            self.is_full = False
            self.changed.set()
        while not self._ready and not self._has_ended:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        batch, self._ready = self._ready, []
        self._taken, self._taken_bytes = len(batch), self._ready_bytes
        self._ready_bytes = 0
        return batch

    def end(self) -> None:
        """Nothing more comes."""
        self._has_ended = True
        self._wake()

    async def run(self) -> None:
        """Do nothing: there is no file to write to."""

    async def close(self) -> None:
        """Do nothing: the consumer takes what there is."""

    def stop_waiting(self) -> None:
        """Do nothing: there is no room to wait for."""

    def _is_over(self, share: int) -> bool:
        count = len(self._ready) + self._taken
        return count * share >= self._max_results or (self._ready_bytes + self._taken_bytes) * share >= FULL_BYTES

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


def _success(success: Success, echo: bool, body: str) -> Result:
    request, answer, reply = success.request, success.answer, success.reply
    keeps_body = body == "always" or (body == "auto" and answer.says_more)
    return Result(
        index=request.number - 1,
        file=request.file,
        id=request.id,
        key=request.key,
        input=request.input if echo else None,
        response=answer.text,
        parsed=None if success.parsed is None else orjson.loads(success.parsed),
        usage=answer.usage,
        finish_reason=answer.finish_reason,
        model=answer.model,
        status=reply.status,
        cached=success.cached,
        via=reply.via or None,
        batch=request.batch or None,
        repeat=request.repeat,
        attempts=success.attempts,
        maybe_billed=success.maybe_billed,
        repairs=_repairs_of(success.invalid),
        invalid_tokens=_tokens_of(success.invalid),
        latency_s=reply.latency_s,
        endpoint=success.endpoint or None,
        fields=_fields_of(request) if request.extra else {},
        body=reply.body if keeps_body else b"",
    )


def _failure(failure: Failure, echo: bool) -> Result:
    line = failure.line
    return Result(
        index=line.number - 1,
        file=line.file,
        id=line.id,
        key=line.key,
        input=line.input if echo else None,
        model=line.model if isinstance(line, Request) else None,
        error=failure.error,
        code=failure.code,
        status=failure.status,
        transient=failure.transient,
        repeat=line.repeat if isinstance(line, Request) else 0,
        attempts=failure.attempts,
        maybe_billed=failure.maybe_billed,
        repairs=_repairs_of(failure.invalid),
        invalid_tokens=_tokens_of(failure.invalid),
        latency_s=failure.reply.latency_s if failure.reply is not None else 0.0,
        endpoint=failure.endpoint,
        fields=_fields_of(line) if line.extra else {},
        body=failure.body,
    )


def _repairs_of(invalid: InvalidAnswers | None) -> int:
    return 0 if invalid is None else invalid.repairs


def _tokens_of(invalid: InvalidAnswers | None) -> int:
    return 0 if invalid is None else invalid.prompt_tokens + invalid.completion_tokens


def _fields_of(line: Line) -> Mapping[str, Any]:
    """Return the prompt's own fields; numbers that records keep digit by digit are read anew."""
    extra = line.extra or {}
    if not any(_has_fragment(value) for value in extra.values()):
        return extra
    fields: dict[str, Any] = json.loads(line.text)
    return {name: fields[name] for name in extra}


def _has_fragment(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_fragment, value.values()))
    if isinstance(value, list):
        return any(map(_has_fragment, value))
    return isinstance(value, orjson.Fragment)
