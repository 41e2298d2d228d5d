"""One batch at a provider that refuses: nothing is paid for twice, and nothing is lost."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TypeVar, cast

import pytest

from llmblast.batching.api import (
    BatchApi,
    BatchApiError,
    BatchEnd,
    BatchGone,
    BatchResult,
    BatchState,
    BatchStatus,
    BrokenOff,
    Finding,
    Maybe,
    MaybeStarted,
    NotAllowed,
    NotHere,
    Rejected,
)
from llmblast.job.batch_endpoints import BatchEndpoint
from llmblast.job.batch_journal import BatchEntry, BatchJournal, Step
from llmblast.job.batch_lines import PackWriter, custom_id_of
from llmblast.job.batch_run_side import RunSide
from llmblast.job.batch_task import BatchTask
from llmblast.models import Reply, Request
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.reading import RequestParser
from llmblast.sending import Target
from llmblast.settings import Settings

T = TypeVar("T")
MARK, LINES = "lb1", 3
RUNNING = BatchStatus("b1", BatchState.RUNNING)
ENDED = BatchStatus("b1", BatchState.ENDED, BatchEnd.COMPLETED, result_files=("f1",))
CANCELLED = BatchStatus("b1", BatchState.ENDED, BatchEnd.CANCELLED, result_files=("f1",))
GONE, REFUSED = BatchGone("HTTP 404"), NotHere("HTTP 403")
ALL = tuple(range(LINES))

pytestmark = pytest.mark.usefixtures("no_patience")


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse for good what is refused once, and poll at once."""
    monkeypatch.setattr("llmblast.job.batch_tries.MAX_REFUSED_S", 0.0)
    monkeypatch.setattr("llmblast.job.batch_task.poll_interval_s", lambda _age_s: 0.0)


@dataclass
class _Found:
    finding: Finding


class FakeApi:
    """Gives the answers to each call in turn, the last one again and again, and notes the calls."""

    def __init__(
        self,
        *,
        statuses: Sequence[BatchStatus | BatchApiError] = (ENDED,),
        results: Sequence[BatchApiError | Sequence[int]] = (ALL,),
        cancels: Sequence[BatchApiError | None] = (None,),
        findings: Sequence[Finding | BatchApiError] = (),
        upload: BatchApiError | None = None,
        start: BatchApiError = MaybeStarted("HTTP 502"),  # noqa: B008 -- raised at most once
        breaks_off: BatchApiError | None = None,
    ) -> None:
        self._upload, self._start, self._breaks_off = upload, start, breaks_off
        self._statuses, self._results, self._cancels = list(statuses), list(results), list(cancels)
        self._findings: list[_Found | BatchApiError] = [
            answer if isinstance(answer, BatchApiError) else _Found(answer) for answer in findings
        ]
        self.calls: list[str] = []

    async def status(self, _batch_id: str) -> BatchStatus:
        return self._next("status", self._statuses)

    async def cancel(self, _batch_id: str) -> None:
        self._next("cancel", self._cancels)

    async def find(self, *_place: object) -> Finding:
        return self._next("find", self._findings).finding

    async def upload(self, _batch: object) -> str:
        self.calls.append("upload")
        if self._upload is not None:
            raise self._upload
        return "f0"

    async def start(self, _batch: object) -> BatchStatus:
        self.calls.append("start")
        raise self._start

    async def results(self, _status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        for index in self._next("results", self._results):
            yield BatchResult(custom_id_of(MARK, index), Reply(200))
        if self._breaks_off is not None:
            raise self._breaks_off

    async def delete_upload(self, _upload_id: str) -> None:
        self.calls.append("delete")

    def _next(self, call: str, answers: list[T | BatchApiError]) -> T:
        self.calls.append(call)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BatchApiError):
            raise answer
        return answer


class FakeRun:
    """The run of a batch. `answered` are the numbers of the lines that got a reply."""

    def __init__(self, *, detaches: bool = False, latest_wait_s: float = inf) -> None:
        self.detaches = detaches
        self.answered: list[int] = []
        self.texts: list[str] = []
        self.say = self.texts.append
        self._latest_wait_s = latest_wait_s

    def new_parser(self) -> RequestParser:
        return RequestParser(Settings(), [DEFAULT_PROVIDER])

    def latest_wait_s(self, _entry: BatchEntry) -> float:
        return self._latest_wait_s

    def on_reply(self, request: Request, _index: int, _reply: Reply) -> bool:
        self.answered.append(request.number)
        return True

    async def wait_for_room(self) -> None:
        """There is room."""

    async def flush(self) -> bool:
        return True


def open_batch(
    folder: Path, api: FakeApi, run: FakeRun, *, step: Step, is_mock: bool = False, deadline_s: float = inf
) -> BatchTask:
    """Return a batch of three lines at this step."""
    journal = BatchJournal(str(folder))
    journal.create_folder()
    entry = BatchEntry(MARK, "e", "chat/completions", "m", 0, 0, deadline_s)
    writer = PackWriter(journal, entry)
    for number in range(1, LINES + 1):
        writer.add(Request(number, f"{number:016}", b'{"prompt":"x"}', number), b"{}\n", None)
    writer.finish()
    journal.add(entry)
    if step is not Step.PACKED:
        journal.record(entry, Step.UPLOADED, upload_id="f0")
    if step not in (Step.PACKED, Step.UPLOADED):
        journal.record(entry, Step.STARTING)
    if step not in (Step.PACKED, Step.UPLOADED, Step.STARTING):
        journal.record(entry, Step.STARTED, batch_id="b1")
        journal.record(entry, step, **({"end": "completed"} if step is Step.ENDED else {}))
    endpoint = BatchEndpoint(0, "e", 1.0, cast(BatchApi, api), cast(Target, None), True, is_mock)
    return BatchTask(
        entry,
        endpoint,
        journal,
        cast(RunSide, run),
        bytearray(LINES),
        asyncio.Semaphore(),
        on_change=lambda: None,
        on_split=lambda *_split: None,
        was_alone=lambda _entry: False,
        on_not_here=lambda *_place: None,
    )


@pytest.mark.parametrize("error", [GONE, REFUSED, Rejected("HTTP 400")])
@pytest.mark.parametrize("step", [Step.STARTED, Step.CANCELLING, Step.ENDED])
async def test_a_batch_that_may_not_be_asked_for_is_left(tmp_path: Path, step: Step, error: BatchApiError) -> None:
    """A 404 mostly means the key of another project: the batch goes on and is paid for, so nothing is sent again."""
    run = FakeRun()
    batch = open_batch(tmp_path / "b", FakeApi(statuses=[error]), run, step=step)

    await batch.run()

    assert (batch.is_left, batch.entry.step, batch.problem) == (True, step, str(error))
    assert run.answered == []


@pytest.mark.parametrize("call", ["upload", "start"])
async def test_a_key_without_the_right_to_batches_is_for_a_person_to_mend(tmp_path: Path, call: str) -> None:
    """To send the lines directly would cost twice as much, which nobody has asked for."""
    api = FakeApi(**{call: NotAllowed("HTTP 403")})  # type: ignore[arg-type]  # both are errors
    batch = open_batch(tmp_path / "b", api, FakeRun(), step=Step.PACKED)

    await batch.run()

    assert (batch.is_left, batch.problem, api.calls[-1]) == (True, "HTTP 403", call)
    assert not batch.entry.is_in_progress


async def test_lines_with_a_deadline_do_not_wait_for_the_right_to_batches(tmp_path: Path) -> None:
    api, deadline_s = FakeApi(upload=NotAllowed("HTTP 403")), time.time() + 3600.0
    batch = open_batch(tmp_path / "b", api, FakeRun(), step=Step.PACKED, deadline_s=deadline_s)

    await batch.run()

    assert (batch.is_left, batch.entry.step, batch.outstanding) == (False, Step.COLLECTED, [*ALL])


async def test_a_file_that_is_refused_is_told_with_its_place_once(tmp_path: Path) -> None:
    run, error = FakeRun(), Rejected("endpoint e: cannot start a batch: HTTP 400")
    batch = open_batch(tmp_path / "b", FakeApi(start=error), run, step=Step.UPLOADED)

    await batch.run()

    assert run.texts == ["endpoint e: cannot start a batch: HTTP 400; 3 lines are sent directly"]


async def test_results_before_a_break_are_kept(tmp_path: Path) -> None:
    """A file whose download always breaks off at the same place has answers up to there."""
    run = FakeRun()
    batch = open_batch(tmp_path / "b", FakeApi(results=[(0, 2)], breaks_off=REFUSED), run, step=Step.STARTED)

    await batch.run()

    assert (batch.is_left, run.answered, batch.outstanding) == (True, [1, 3], [1])


async def test_a_download_that_always_breaks_off_is_left(tmp_path: Path) -> None:
    """What has come counts; the next run reads the rest, since it is paid for."""
    run, error = FakeRun(), BrokenOff("the download ended too early")
    batch = open_batch(tmp_path / "b", FakeApi(results=[(0, 2)], breaks_off=error), run, step=Step.STARTED)

    await batch.run()

    assert (batch.is_left, batch.breaks_off, batch.entry.step) == (True, True, Step.ENDED)
    assert (batch.problem, run.answered, batch.outstanding) == (str(error), [1, 3], [1])


async def test_a_start_that_cannot_be_looked_for_is_left(tmp_path: Path) -> None:
    """The listing is refused for good: what was started is not known, so nothing is started or sent."""
    api = FakeApi(findings=[REFUSED])
    batch = open_batch(tmp_path / "b", api, FakeRun(), step=Step.UPLOADED)

    await batch.run()

    assert (batch.is_left, batch.entry.step, api.calls) == (True, Step.STARTING, ["start", "find"])


async def test_a_run_that_detaches_does_not_wait_to_know_what_was_started(tmp_path: Path) -> None:
    """Only the end of a batch that may be ours tells whether it is, which may take a day."""
    api = FakeApi(findings=[Maybe(("b1",))])
    batch = open_batch(tmp_path / "b", api, FakeRun(detaches=True), step=Step.STARTING)

    await batch.run()

    assert (batch.is_left, batch.entry.step) == (True, Step.STARTING)


@pytest.mark.parametrize("error", [REFUSED, Rejected("HTTP 400")])
async def test_results_that_may_not_be_read_are_left(tmp_path: Path, error: BatchApiError) -> None:
    """They are paid for: the key may have no right to read files, for example."""
    run = FakeRun()
    batch = open_batch(tmp_path / "b", FakeApi(results=[error]), run, step=Step.STARTED)

    await batch.run()

    assert (batch.is_left, batch.entry.step, batch.problem) == (True, Step.ENDED, str(error))


async def test_results_that_are_deleted_leave_their_lines_to_be_sent(tmp_path: Path) -> None:
    """The batch is known and its file is not: it is too old."""
    run = FakeRun()
    batch = open_batch(tmp_path / "b", FakeApi(results=[GONE]), run, step=Step.STARTED)

    await batch.run()

    assert (batch.is_left, batch.entry.step, batch.outstanding) == (False, Step.COLLECTED, [*ALL])
    assert "HTTP 404" in run.texts
    assert run.texts[-1].endswith("without a valid answer to 3 of 3 lines: they are sent directly")


@pytest.mark.parametrize("error", [GONE, REFUSED, Rejected("HTTP 400")])
async def test_a_batch_that_cannot_be_cancelled_is_waited_for(tmp_path: Path, error: BatchApiError) -> None:
    """It goes on and is paid for; a server without cancellation answers 404 or 405."""
    run = FakeRun(latest_wait_s=0.0)
    api = FakeApi(statuses=[RUNNING, RUNNING, ENDED], cancels=[error])
    batch = open_batch(tmp_path / "b", api, run, step=Step.STARTED)

    await batch.run()

    assert (batch.entry.step, run.answered) == (Step.DONE, [1, 2, 3])
    assert run.texts == [f"{error}; it is tried again until the batch has ended"]


async def test_a_mock_inside_the_run_does_not_know_the_batches_of_earlier_runs(tmp_path: Path) -> None:
    batch = open_batch(tmp_path / "b", FakeApi(statuses=[GONE]), FakeRun(), step=Step.STARTED, is_mock=True)

    await batch.run()

    assert (batch.is_left, batch.entry.step, batch.outstanding) == (False, Step.COLLECTED, [*ALL])


async def test_a_cancelled_batch_leaves_what_it_has_not_finished(tmp_path: Path) -> None:
    run = FakeRun(latest_wait_s=0.0)
    api = FakeApi(statuses=[RUNNING, CANCELLED], results=[(2,)])
    batch = open_batch(tmp_path / "b", api, run, step=Step.STARTED)

    await batch.run()

    assert (batch.entry.step, run.answered, batch.outstanding) == (Step.COLLECTED, [3], [0, 1])
