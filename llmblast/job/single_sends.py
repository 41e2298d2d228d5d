"""Single sends: answer lines whose request has an answer already, and send equal requests once.

It stands twice in the flow: between parser and queue, where a line that is answered from the store goes on to the sink
and no limit hears of it, and before the sink, where each answer is kept and given to the lines that wait for it.

What is kept is the body of a reply that became an answer, so that records are made of it as of a fresh reply. Errors
are not kept, nor are answers that a filter has stopped: both may be different the next time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from llmblast.caching import Destination, RequestKeys, StoreError, StoreThread
from llmblast.caching.answer_store import AnswerStore
from llmblast.checking_answers import AnswerChecks, AnswerCommand, Finding
from llmblast.checking_answers.command import CommandBrokenError
from llmblast.errors import ExitCode
from llmblast.fence import Fence
from llmblast.hiding import hide_user
from llmblast.job.back_pressure import Sink
from llmblast.job.batch_parser import Batch
from llmblast.job.deadlines import Deadlines
from llmblast.models import Answer, Failure, Line, Outcome, Reply, Request, Success
from llmblast.provider_contract import Provider
from llmblast.providers import is_filtered, is_flagged, providers_of
from llmblast.sending import rendering_for
from llmblast.settings import Settings
from llmblast.watching import Counters

MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""Bounds of the lines that wait for the answer to an equal request; beyond them the reader waits."""
MAX_ACCEPTED: Final = 100_000
"""Answers that the command is known to accept, so that equal lines do not run it again."""
LEFT_PENDING_INTERVAL_S: Final = 0.25
_LINE_BYTES: Final = 500
"""What a waiting line takes beside its text, roughly."""
_OK: Final = 200


async def open_store(settings: Settings, say: Callable[[str], None]) -> StoreThread:
    """Open the store of `--cache`, or a temporary one for `--dedupe`; `say` gets the reason why replies are not kept
    any more.

    Raises UsageError for a file that cannot be used.
    """
    store = await asyncio.to_thread(AnswerStore, settings.cache)
    return StoreThread(store, on_failure=lambda why: say(f"{why}; answers are not cached any more"))


def request_keys(settings: Settings) -> RequestKeys:
    """Return the keys of requests to the endpoints of the settings."""
    endpoints = zip(settings.endpoints, providers_of(settings.endpoints, settings.model), strict=True)
    return RequestKeys(
        [
            Destination(
                provider.kind,
                provider.base_url(endpoint.url),
                endpoint.model or settings.model,
                partial(rendering_for, provider),
            )
            for endpoint, provider in endpoints
        ]
    )


class SingleSends:
    """`providers` and `names` are those of the endpoints, in their order. `stop` ends the run with a reason when the
    store cannot be read any more, or the command that checks answers cannot be run.
    """

    def __init__(
        self,
        keys: RequestKeys,
        store: StoreThread,
        sink: Sink,
        counters: Counters,
        *,
        providers: Sequence[Provider],
        names: Sequence[str],
        stop: Callable[[ExitCode, str], None],
        fence: Fence,
        checks: AnswerChecks | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._keys = keys
        self._store = store
        self._sink = sink
        self._readers = {provider.kind: provider.read_answer for provider in reversed(providers)}
        self._index_of = {name: index for index, name in enumerate(names)}
        self._stop = stop
        self._fence = fence
        self._checks = checks
        self._deadlines = deadlines or Deadlines(counters)
        self._in_flight: dict[bytes, list[Request]] = {}
        """The lines that wait for each request under way, by its first key."""
        self._waiting = self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self._accepted: dict[bytes, None] = {}
        """Keys of answers that the command has accepted in this run, oldest first."""

    @property
    def _counters(self) -> Counters:
        return self._deadlines.counters

    @property
    def is_full(self) -> bool:
        """Nothing should be sent now: the sink or the store has too much to write."""
        return self._sink.is_full or self._store.is_full

    async def batches(self, parsed: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        """Yield each batch without the lines that need no request of their own."""
        async for batch in parsed:
            try:
                async with self._store.looking:
                    to_send = await self._without_known(batch)
            except StoreError as error:
                self._stop(ExitCode.OUTPUT_FAILED, str(error))
                return
            except CommandBrokenError as error:
                self._stop(ExitCode.GAVE_UP, hide_user(str(error)))
                return
            yield to_send  # even an empty one: the run looks after its sink and its signals between batches
            await self._wait_for_room()

    def expect(self, cache_keys: Sequence[bytes]) -> None:
        """Let lines wait for a request that an earlier run has sent, and whose answer this one gets."""
        self._in_flight.setdefault(cache_keys[0], [])

    def put(self, outcome: Outcome) -> None:
        """Hand an outcome to the sink, and answer the lines that wait for it."""
        self._sink.put(outcome)
        request = outcome.request if isinstance(outcome, Success) else outcome.line
        if not isinstance(request, Request) or not request.cache_keys:
            return
        waiting = self._in_flight.pop(request.cache_keys[0], None)
        if isinstance(outcome, Success):
            self._keep(outcome, request)
        if waiting:
            self._answer_waiting(outcome, waiting)

    def leave_out(self, line: Line) -> None:
        """Expect no record of a line in this run, nor of those that wait for its answer."""
        self._sink.leave_out(line)
        if not isinstance(line, Request) or not line.cache_keys:
            return
        for request in self._in_flight.pop(line.cache_keys[0], ()):
            self._count_waiting(request, -1)
            self._counters.left_pending += 1
            self._sink.leave_out(request)
        self._has_room.set()

    async def _without_known(self, batch: Batch) -> Batch:
        to_send: list[Request | Failure] = []
        unknown: list[Request] = []
        wanted: list[bytes] = []
        for item in batch:
            if not isinstance(item, Request):
                to_send.append(item)
                continue
            keys = item.cache_keys = self._keys.of(item)
            if not keys:
                to_send.append(item)
            elif (waiting := self._in_flight.get(keys[0])) is not None:
                self._let_wait(item, waiting)
            else:
                unknown.append(item)
                wanted += keys
        found: Mapping[bytes, bytes] = await self._store.find(wanted) if wanted else {}
        if found and self._checks is not None and self._checks.command is not None:
            found = await self._accepted_by(self._checks.command, unknown, found)
        for item in unknown:
            keys = item.cache_keys
            if (waiting := self._in_flight.get(keys[0])) is not None:  # an equal line of this batch
                self._let_wait(item, waiting)
            elif not found or not self._answer_from(found, item):
                self._in_flight[keys[0]] = []
                to_send.append(item)
        return to_send

    def _answer_from(self, found: Mapping[bytes, bytes], request: Request) -> bool:
        """Answer a line if the store has a reply to its request that passes the checks; return whether it did."""
        for _, reply, answer, finding in self._answers_in(found, request):
            self._succeed(request, answer, reply, finding.parsed)
            return True
        return False

    def _answers_in(
        self, found: Mapping[bytes, bytes], request: Request
    ) -> Iterator[tuple[bytes, Reply, Answer, Finding]]:
        """Yield key and answer of the replies to a request that pass the checks of this run, which may be others than
        when they came.
        """
        for index, key in enumerate(request.cache_keys):
            if (body := found.get(key)) is None:
                continue
            reply = Reply(_OK, body=body)
            answer = self._readers[self._keys.kind_of(index, request)](request, reply)
            if isinstance(answer, Answer):
                finding = Finding() if self._checks is None else self._checks.find(answer.text)
                if finding.problem is None:
                    yield key, reply, answer, finding

    async def _accepted_by(
        self, command: AnswerCommand, requests: Sequence[Request], found: Mapping[bytes, bytes]
    ) -> Mapping[bytes, bytes]:
        """Return those of the replies that the command accepts, too. Raises CommandBrokenError."""
        first_of = {request.cache_keys: request for request in requests}
        texts = {
            key: str(answer.text)
            for request in first_of.values()
            for key, _, answer, _ in self._answers_in(found, request)
            if key not in self._accepted
        }
        problems = await asyncio.gather(*map(command.find_problem, texts.values()))
        refused = {key for key, problem in zip(texts, problems, strict=True) if problem is not None}
        for key in texts.keys() - refused:
            self._accept(key)
        return {key: body for key, body in found.items() if key not in refused}

    def _accept(self, key: bytes) -> None:
        if len(self._accepted) >= MAX_ACCEPTED:
            del self._accepted[next(iter(self._accepted))]
        self._accepted[key] = None

    def _keep(self, success: Success, request: Request) -> None:
        if success.invalid is not None:
            if success.invalid.is_escalated:
                return
            request = success.invalid.original
        endpoint = self._index_of.get(success.endpoint)
        if endpoint is None or is_filtered(success.answer.finish_reason):
            return
        key = self._keys.at(endpoint, request)
        if key is not None:
            self._store.keep(key, success.reply.body)
            if self._checks is not None and self._checks.command is not None:
                self._accept(key)

    def _let_wait(self, request: Request, waiting: list[Request]) -> None:
        waiting.append(request)
        self._count_waiting(request, 1)

    def _count_waiting(self, request: Request, sign: int) -> None:
        self._waiting += sign
        self._waiting_bytes += sign * (_LINE_BYTES + len(request.text) + len(request.body))

    async def _wait_for_room(self) -> None:
        """Wait while too many lines wait for others. A request that is left for another run gets no outcome, so once
        there are any, no line waits for room.
        """
        while (
            self._waiting >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES
        ) and not self._counters.left_pending:
            self._has_room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LEFT_PENDING_INTERVAL_S):
                    await self._has_room.wait()

    def _answer_waiting(self, outcome: Outcome, waiting: Sequence[Request]) -> None:
        """Give the lines the answer to the request that they waited for, or its failure."""
        for request in waiting:
            self._count_waiting(request, -1)
            if isinstance(outcome, Success):
                reply = Reply(outcome.reply.status, outcome.reply.head, outcome.reply.body)
                reply.read_head = outcome.reply.read_head
                self._succeed(request, outcome.answer, reply, outcome.parsed)
            else:
                self._fail(request, outcome)
        self._has_room.set()

    def _succeed(self, request: Request, answer: Answer, reply: Reply, parsed: bytes | None) -> None:
        self._sink.put(Success(request, answer, reply, "", attempts=0, parsed=parsed, cached=True))
        counters = self._counters
        counters.succeeded += 1
        counters.cached += 1
        self._deadlines.on_end(request.terms, is_answered=True)
        if answer.finish_reason != "stop" and is_flagged(answer.finish_reason):
            counters.flagged += 1

    def _fail(self, request: Request, failure: Failure) -> None:
        """Record the failure for a line that waited. Whether too many have failed is asked after the first one's."""
        self._sink.put(replace(failure, line=request, attempts=0, maybe_billed=0, body=b""))
        self._counters.failed += 1
        self._deadlines.on_end(request.terms, is_answered=False)
        try:
            self._counters.count_error(failure.code, request.number, failure.error)
        except Exception as error:  # noqa: BLE001 -- advice
            self._fence.switch_off("the error statistics", error)
