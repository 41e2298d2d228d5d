"""Batch tries: how often a call of a batch API is tried again, and what becomes of the batch where that does not help.

Errors that pass are waited for. What is refused may be so for a while only, since a gateway or a listing lags behind;
after that, a person has to solve it. Until then the batch is left as it is: its lines may be paid for already.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final, TypeVar

from llmblast.batching.api import BatchApiError, BatchGone, NotNow, Unreachable

T = TypeVar("T")
FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 60.0
"""Pause before the next try of what is refused for now or cannot be reached; it doubles from the first one on."""
MAX_REFUSED_S: Final = 300.0
"""What is refused for so long is left to a person."""


class SendDirectly(Exception):  # noqa: N818 -- no error: what happens to the lines
    """The batch is not worth another try: its lines are sent directly. The text is the reason."""


class LeaveToNextRun(Exception):  # noqa: N818 -- no error: what happens to the batch
    """The batch is left as it is, to another run. The text is the reason, `__cause__` the error of the API, if any."""


@dataclass(slots=True, eq=False)
class BatchTries:
    """Tries the calls of one batch. `forgets` says that the API has lost the batches of earlier runs: the built-in mock
    inside a run.
    """

    say: Callable[[str], None]
    detaches: bool
    """The run does not wait."""
    forgets: bool
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    _told: str = ""

    async def while_there_is_time(self, call: Callable[[], Awaitable[T]], cutoff_s: Callable[[], float]) -> T:
        """Return what a call returns, in as many tries as there is time for until `cutoff_s`, a wall time. Raises
        SendDirectly, and what another try does not mend.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except (NotNow, Unreachable) as error:
                pause_s = await self.pause(error, pause_s, cutoff_s())

    async def until_known(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call returns, however long that takes: the provider may be working on the batch.

        Raises LeaveToNextRun where it is refused for `MAX_REFUSED_S`, or fails for so long in a run that detaches, and
        BatchGone where the API forgets.
        """
        pause_s, since_s = FIRST_PAUSE_S, inf
        while True:
            try:
                return await call()
            except BatchApiError as error:
                if self.forgets and isinstance(error, BatchGone):
                    raise
                passes = isinstance(error, NotNow | Unreachable) and not self.detaches
                since_s = inf if passes else min(since_s, self.clock())
                if self.clock() - since_s >= MAX_REFUSED_S:
                    raise LeaveToNextRun(str(error)) from error
                pause_s = await self.pause(error, pause_s)

    async def pause(self, error: BatchApiError, pause_s: float, cutoff_s: float = inf) -> float:
        """Wait before the next try, and return the pause after it. Raises SendDirectly where it is after `cutoff_s`."""
        self.tell(f"{str(error).rstrip('.')}; it is tried again")
        named_s = error.retry_after_s if isinstance(error, NotNow) else None
        wait_s = max(pause_s, named_s or 0.0)
        if self.wall_clock() + wait_s >= cutoff_s:
            raise SendDirectly(f"{error}; there is no time to wait for it")
        await self.sleep(wait_s)
        return min(pause_s * 2, MAX_PAUSE_S)

    def tell(self, text: str) -> None:
        """Show a message, but not again and again."""
        if text != self._told:
            self._told = text
            self.say(text)
