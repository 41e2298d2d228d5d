"""Running: a run of the Python API in a task of its own, so that its end does not hang on the caller's task."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from llmblast.errors import ExitCode

T = TypeVar("T")


class Stoppable(Protocol):
    """A job, or the jobs of several stages."""

    def drain(self, exit_code: ExitCode, reason: str) -> int:
        """Send nothing more; return the number of requests in flight."""

    def abort_in_flight(self) -> None:
        """Abort the requests in flight of a run that is stopping."""


class Running(Generic[T]):
    """A run in a task.

    `run` gets this object, and calls `on_start` with its job. `on_end` is called when the run is over.
    """

    def __init__(
        self, run: "Callable[[Running[T]], Coroutine[Any, Any, T]]", on_end: Callable[[], None] | None = None
    ) -> None:
        self._job: Stoppable | None = None
        self._is_stopped = False
        self._on_end = on_end
        self.task = asyncio.get_running_loop().create_task(run(self), name="llmblast")
        self.task.add_done_callback(self._on_done)

    def on_start(self, job: Stoppable) -> None:
        """Take the job, and stop it if the run was stopped before."""
        self._job = job
        if self._is_stopped:
            self._stop(at_once=True)

    async def end(self, *, at_once: bool) -> None:
        """Wait until all is closed; of a run that is still on, send nothing more. Another cancellation abandons what is
        in flight.
        """
        if not self.task.done():
            self._stop(at_once=at_once)
        cancelled: asyncio.CancelledError | None = None
        while not self.task.done():
            try:
                await asyncio.wait([self.task])
            except asyncio.CancelledError as error:
                cancelled = error
                self._stop(at_once=True)
        if cancelled is not None:
            raise cancelled

    def _stop(self, *, at_once: bool) -> None:
        if self._job is not None:
            self._job.drain(ExitCode.INTERRUPTED, "cancelled")
            if at_once:
                self._job.abort_in_flight()
        elif at_once:
            self.task.cancel()
        else:  # a thread may be about to put the files right
            self._is_stopped = True

    def _on_done(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # a caller that does not wait for it has left
        if self._on_end is not None:
            self._on_end()
