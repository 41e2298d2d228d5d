"""Batches of the mock provider: what they are, and the work on them, line by line, until they end.

A batch is worked on in the background, whether a client looks at it or not, in the order of a seeded shuffle. Each API
has a `LineForm`, which reads its input lines and writes its result lines; all else is the same for all of them. Every
line is answered by the code that answers a direct request with the same body.
"""

import asyncio
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from random import Random
from secrets import token_hex
from typing import Any, Protocol

import orjson

from llmblast.mocking.answers import Answer
from llmblast.mocking.error_replies import BadRequestError, error_body
from llmblast.mocking.ledger import key_of
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.stored_files import StoredFile

MAX_PROBLEMS = 100
_SLICE_LINES = 5
"""Lines that are answered before others have their turn in the event loop."""
_TICK_S = 0.05
_VALIDATION_SHARE = _FINALIZING_SHARE = 0.1
"""Shares of `batch_delay` before the first line and after the last one."""
_MAX_CANCELLING_S = 1.0


class Phase(Enum):
    """States of a batch; the values are OpenAI's names for them."""

    VALIDATING = "validating"
    FAILED = "failed"
    RUNNING = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset({Phase.FAILED, Phase.COMPLETED, Phase.EXPIRED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch; `model` is the one that its path would name, `place` counts from 1."""

    custom_id: str
    body: dict[str, Any]
    model: str = ""
    place: int = 0
    metadata: object = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Reason for which a batch fails at validation; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class LineForm(Protocol):
    """Input and result lines of an API's batches."""

    api: str
    max_lines: int
    file_prefix: str
    """Begin of the identities of files with results."""
    has_error_file: bool
    """Lines without an answer go to a file of their own."""
    has_unique_ids: bool
    """No two lines of a batch may have the same custom id."""
    rejects_at_start: bool
    """The request that starts a batch checks its lines; the batch itself cannot fail."""

    def read(self, batch: "Batch", line: Mapping[str, Any], number: int) -> BatchLine:
        """Return the request of an input line. Raises BadRequestError where the whole batch fails for it."""

    def answered(self, batch: "Batch", line: BatchLine, answer: Answer) -> bytes:
        """Return the result of a line that was answered, maybe with an error."""

    def unfinished(self, batch: "Batch", line: BatchLine) -> bytes | None:
        """Return the result of a line that the end of its batch has left; None where the API has none."""


@dataclass(slots=True, eq=False)
class Batch:
    """One batch. Times are wall time; `starts` says where the lines of `source` begin."""

    identity: str
    form: LineForm
    operation: str
    source: StoredFile
    created_s: float
    endpoint: str = ""
    model: str = ""
    name: str = ""
    metadata: Mapping[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other members of the request that started it, which its description repeats."""
    phase: Phase = Phase.VALIDATING
    entered_s: dict[Phase, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    succeeded: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output: StoredFile | None = None
    errors: StoredFile | None = None
    cancel_requested: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def total(self) -> int:
        """Number of its lines, once they were counted."""
        return len(self.starts)

    @property
    def unfinished(self) -> int:
        """Number of lines without a result so far."""
        return self.total - self.succeeded - self.failed

    @property
    def is_ended(self) -> bool:
        return self.phase in ENDED

    def line(self, index: int) -> BatchLine:
        """Return a line that was validated, by its index from 0."""
        return self.form.read(self, orjson.loads(self.source.line_at(self.starts[index])), index + 1)


class BatchStore:
    """All files and batches of a server. The settings that count begin with `batch_`."""

    def __init__(
        self,
        settings: MockSettings,
        answer: Callable[[str, bytes, str], Answer],
        record: Callable[[Mapping[str, object]], None],
        wall_clock: Callable[[], float],
    ) -> None:
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, StoredFile] = {}
        """Files whose content has not come as a whole."""
        self._settings = settings
        self._answer = answer
        self._record = record
        self._wall_clock = wall_clock
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._run = token_hex(6)
        self._numbers = count(1)

    @property
    def delay_s(self) -> float:
        """Seconds from the start of a batch to its end."""
        return self._settings.batch_delay

    def now(self) -> float:
        """Return the wall time."""
        return self._wall_clock()

    def make_id(self, prefix: str) -> str:
        """Return an identity that no other object has."""
        return f"{prefix}{self._run}{next(self._numbers):08x}"

    def new_file(self, name: str, purpose: str, identity: str = "") -> StoredFile:
        """Return an empty file, which is kept when it is put into `files`."""
        return StoredFile(identity or self.make_id("file-"), name, purpose, self.now())

    def keep(self, file: StoredFile) -> None:
        """Store a file that is complete."""
        self.files[file.identity] = file

    def start(self, batch: Batch) -> None:
        """Begin the work on a batch."""
        self._batches[batch.identity] = batch
        batch.entered_s[Phase.VALIDATING] = batch.created_s
        self._record({"event": "batch_started", **_named(batch), "metadata": batch.metadata, "name": batch.name})
        task = asyncio.get_running_loop().create_task(self._work(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def find(self, identity: str, api: str) -> Batch | None:
        """Return a batch of an API."""
        batch = self._batches.get(identity)
        return batch if batch is not None and batch.form.api == api else None

    def listed(self, api: str) -> list[Batch]:
        """Return an API's batches, newest first; a new one shows up after `batch_lag` seconds."""
        known_s = self.now() - self._settings.batch_lag
        batches = [batch for batch in self._batches.values() if batch.form.api == api and batch.created_s <= known_s]
        return batches[::-1]

    def cancel(self, batch: Batch) -> None:
        """Stop the work on a batch; lines that were answered keep their results."""
        if not batch.is_ended and batch.phase is not Phase.CANCELLING:
            self._enter(batch, Phase.CANCELLING)
            batch.cancel_requested.set()

    def delete(self, batch: Batch) -> None:
        """Forget a batch and its results, which one that is under way has not shown."""
        del self._batches[batch.identity]
        for file in (batch.output, batch.errors):
            if file is not None:
                self.files.pop(file.identity, None)

    def is_rejected(self, batch_id: str) -> bool:
        """Return whether the setting `batch_reject` hits a batch."""
        return Random(f"{self._settings.seed} reject {batch_id[-8:]}").random() < self._settings.batch_reject

    def exceeds_queue(self, lines: int, api: str) -> bool:
        """Return whether so many lines more would be too many in the queue of an API."""
        waiting = sum(
            batch.unfinished for batch in self._batches.values() if batch.form.api == api and not batch.is_ended
        )
        return self._settings.batch_queue is not None and waiting + lines > self._settings.batch_queue

    async def close(self) -> None:
        """End all work, and give the space back."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.files.clear()
        self.uploads.clear()
        self._batches.clear()

    async def _work(self, batch: Batch) -> None:
        await self._pause(batch, self.delay_s * _VALIDATION_SHARE)
        if not (batch.cancel_requested.is_set() or batch.form.rejects_at_start):
            await self._validate(batch)
        if batch.phase is Phase.FAILED:
            self._end(batch, Phase.FAILED)
            return
        random = Random(f"{self._settings.seed} {batch.identity[-8:]}")
        order = array("Q", range(batch.total))
        random.shuffle(order)
        if not batch.cancel_requested.is_set():
            self._enter(batch, Phase.RUNNING)
            await self._answer_lines(batch, order, random)
        if not batch.cancel_requested.is_set():
            self._enter(batch, Phase.FINALIZING)
        longest_s = _MAX_CANCELLING_S if batch.cancel_requested.is_set() else math.inf
        await asyncio.sleep(min(longest_s, self.delay_s * _FINALIZING_SHARE))
        await self._leave_rest(batch, order)
        ended = Phase.EXPIRED if batch.unfinished else Phase.COMPLETED
        self._end(batch, Phase.CANCELLED if batch.cancel_requested.is_set() else ended)

    async def _validate(self, batch: Batch) -> None:
        """Find the lines; what is wrong with them makes the batch fail."""
        seen: set[str] = set()
        for start in batch.source.line_starts():
            batch.starts.append(start)
            if batch.total > batch.form.max_lines:
                break
            if len(batch.problems) < MAX_PROBLEMS:
                batch.problems += self._problems_of(batch, batch.source.line_at(start), seen)
            if batch.total % _SLICE_LINES == 0:
                await asyncio.sleep(0)
        batch.problems += self._problems_of_file(batch)
        if batch.problems:
            batch.phase = Phase.FAILED

    def _problems_of(self, batch: Batch, text: bytes, seen: set[str]) -> Iterator[Problem]:
        try:
            line = batch.form.read(batch, _object_in(text), batch.total)
            if batch.form.has_unique_ids and line.custom_id in seen:
                message = f"The custom_id '{line.custom_id}' is not unique: another request of this batch has it."
                raise BadRequestError(message, "custom_id", "duplicate_custom_id")
            seen.add(line.custom_id)
        except BadRequestError as error:
            yield Problem(error.code or "invalid_request", error.message, batch.total, error.param)

    def _problems_of_file(self, batch: Batch) -> Iterator[Problem]:
        if not batch.total:
            yield Problem("empty_file", "The input file has no request.")
        if batch.total > batch.form.max_lines:
            message = f"The input file has more than {batch.form.max_lines} requests."
            yield Problem("too_many_tasks", message)
        if self.exceeds_queue(0, batch.form.api):
            limit = self._settings.batch_queue
            message = (
                f"Enqueued token limit reached for {batch.model}. Limit: {limit} enqueued requests. "
                "Please try again once some in_progress batches have been completed."
            )
            yield Problem("token_limit_exceeded", message)
        if self.is_rejected(batch.identity):
            yield Problem("invalid_request", "The mock provider rejects this file, as its setting batch_reject says.")

    async def _answer_lines(self, batch: Batch, order: "array[int]", random: Random) -> None:
        """Answer the lines evenly over the time of the batch, until it is cancelled or expires."""
        clock = asyncio.get_running_loop().time
        total_s = self.delay_s * (1 - _VALIDATION_SHARE - _FINALIZING_SHARE)
        began_s, done = clock(), 0
        last = batch.total - round(batch.total * self._settings.batch_expire)
        while done < last and not batch.cancel_requested.is_set():
            passed = 1.0 if not total_s else min(1.0, (clock() - began_s) / total_s)
            due = min(int(last * passed), done + _SLICE_LINES)
            for index in order[done:due]:
                self._answer_line(batch, batch.line(index), random)
            is_behind = due - done == _SLICE_LINES
            done = due
            await self._pause(batch, 0 if is_behind or not total_s else min(_TICK_S, total_s / 20))

    def _answer_line(self, batch: Batch, line: BatchLine, random: Random) -> None:
        body = orjson.dumps(line.body)
        answer = _FAILURE
        if random.random() >= self._settings.batch_fail:
            answer = self._answer(batch.operation, body, line.model)
        if answer.events:
            text = "Streaming is not supported in a batch: leave 'stream' out."
            answer = Answer(error_body(text, "invalid_request_error", "stream", "unsupported_parameter"), 400)
        is_billed = answer.status == 200
        self._record(
            {
                "event": "batch_line",
                **_named(batch),
                "custom_id": line.custom_id,
                "key": key_of(body),
                "status": answer.status,
                "billed": is_billed,
            }
        )
        batch.succeeded += is_billed
        batch.failed += not is_billed
        batch.input_tokens += answer.prompt_tokens
        batch.output_tokens += answer.output_tokens
        self._write(batch, batch.form.answered(batch, line, answer), is_error=not is_billed)

    async def _leave_rest(self, batch: Batch, order: "array[int]") -> None:
        """Write the results of lines that were not answered."""
        for number, index in enumerate(order[batch.succeeded + batch.failed :], 1):
            text = batch.form.unfinished(batch, batch.line(index))
            if text is not None:
                self._write(batch, text, is_error=True)
            if number % _SLICE_LINES == 0:
                await asyncio.sleep(0)

    def _write(self, batch: Batch, text: bytes, *, is_error: bool) -> None:
        if is_error and batch.form.has_error_file:
            if batch.errors is None:
                batch.errors = self._result_file(batch, "error")
            batch.errors.append(text + b"\n")
            return
        if batch.output is None:
            batch.output = self._result_file(batch, "output")
        batch.output.append(text + b"\n")

    def _result_file(self, batch: Batch, kind: str) -> StoredFile:
        identity = self.make_id(batch.form.file_prefix)
        return self.new_file(f"{batch.identity}_{kind}.jsonl", "batch_output", identity)

    def _enter(self, batch: Batch, phase: Phase) -> None:
        batch.phase = phase
        batch.entered_s[phase] = self.now()

    def _end(self, batch: Batch, phase: Phase) -> None:
        """Enter the last phase, and show the results."""
        for file in (batch.output, batch.errors):
            if file is not None and batch.identity in self._batches:
                self.keep(file)
        self._record({"event": "batch_ended", **_named(batch), "state": phase.value, "unfinished": batch.unfinished})
        self._enter(batch, phase)

    async def _pause(self, batch: Batch, seconds: float) -> None:
        """Wait, or until a client cancels the batch."""
        if not seconds:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(batch.cancel_requested.wait(), seconds)


def _named(batch: Batch) -> Mapping[str, object]:
    return {"batch": batch.identity, "api": batch.form.api}


def _object_in(text: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise BadRequestError("This line is not parseable as valid JSON.", None, "invalid_json_line")
    return value


_FAILURE = Answer(
    error_body("The server had an error while processing your request. Sorry about that!", "server_error"), 500
)
