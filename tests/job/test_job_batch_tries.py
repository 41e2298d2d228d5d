"""Calls of batch APIs that fail: what passes is waited for, what is refused is left to a person after a while."""

import pytest

from llmblast.batching.api import BatchApiError, BatchGone, NotHere, NotNow, Rejected, Unreachable
from llmblast.job.batch_tries import MAX_PAUSE_S, MAX_REFUSED_S, BatchTries, LeaveToNextRun, SendDirectly

GONE, REFUSED, LOST, BUSY = BatchGone("HTTP 404"), NotHere("HTTP 403"), Unreachable("HTTP 502"), NotNow("HTTP 429", 7.0)


class Calls:
    """Answers calls in turn, on a clock that only pauses move. `texts` are the messages for people."""

    def __init__(self, *answers: BatchApiError | str, detaches: bool = False, forgets: bool = False) -> None:
        self._answers = list(answers)
        self.now_s = 1000.0
        self.texts: list[str] = []
        clock = lambda: self.now_s  # noqa: E731 -- read anew each time
        self.tries = BatchTries(self.texts.append, detaches, forgets, self._sleep, clock, clock)

    async def __call__(self) -> str:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BatchApiError):
            raise answer
        return answer

    async def until_known(self) -> str:
        return await self.tries.until_known(self)

    async def _sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("error", [GONE, REFUSED, Rejected("HTTP 400")])
async def test_what_stays_refused_is_left_to_a_person(error: BatchApiError) -> None:
    """After some minutes, with one message: the lines of the batch may be paid for already."""
    calls = Calls(error)

    with pytest.raises(LeaveToNextRun, match=str(error)):
        await calls.until_known()

    assert MAX_REFUSED_S <= calls.now_s - 1000.0 <= MAX_REFUSED_S + MAX_PAUSE_S
    assert len(calls.texts) == 1


async def test_what_is_refused_for_a_moment_is_asked_again() -> None:
    """As by a gateway whose parts do not know of each other yet; what is down in between says nothing of it."""
    calls = Calls(*([GONE, REFUSED, LOST] * 20), "the answer")

    assert await calls.until_known() == "the answer"


async def test_what_is_down_is_waited_for() -> None:
    """For hours: the provider may work on the batch."""
    calls = Calls(*([LOST, BUSY] * 200), "the answer")

    assert await calls.until_known() == "the answer"


async def test_a_run_that_detaches_does_not_wait_for_what_is_down() -> None:
    calls = Calls(LOST, detaches=True)

    with pytest.raises(LeaveToNextRun):
        await calls.until_known()


async def test_a_mock_inside_the_run_has_lost_the_batches_of_earlier_runs() -> None:
    calls = Calls(GONE, forgets=True)

    with pytest.raises(BatchGone):
        await calls.until_known()


async def test_a_start_that_is_refused_for_now_is_tried_as_long_as_there_is_time() -> None:
    calls = Calls(BUSY)

    with pytest.raises(SendDirectly, match="there is no time to wait for it"):
        await calls.tries.while_there_is_time(calls, lambda: 1030.0)

    assert 1020.0 < calls.now_s < 1030.0
