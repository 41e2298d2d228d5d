"""Sender: hands admitted requests to their channels, at once where a connection is at hand, else in a task.

There is no pool of workers, and at full speed no task either: the reply to one request sends the next one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from llmblast.job.departures import Departures
from llmblast.job.hedged_sends import HedgedSends
from llmblast.models import Attempt, Reply
from llmblast.scheduling import Endpoint
from llmblast.sending import Channel, ChannelListener

Dispatch = tuple[Attempt, Endpoint]
OnReply = Callable[[Endpoint, Attempt, Reply], None]


class Sender:
    """`on_reply` gets the reply to a request that was started. `next_after` gets one that a task brings, and returns
    the next request that the task has to send, if any. `on_task_end` hears of each task that has ended.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        channels: Sequence[Channel],
        departures: Departures,
        hedges: HedgedSends,
        *,
        on_reply: OnReply,
        next_after: Callable[[Attempt, Endpoint, Reply], Dispatch | None],
        on_task_end: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._channels = channels
        self._departures = departures
        self._is_paced = departures.is_paced
        self._hedges = hedges
        self._next_after = next_after
        self._on_task_end = on_task_end
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners = [
            ChannelListener(
                on_reply=partial(on_reply, endpoint),
                leave=partial(departures.ask, endpoint),
                on_delayed_send=partial(departures.on_delayed_send, endpoint),
            )
            for endpoint, _ in zip(endpoints, channels, strict=True)
        ]

    @property
    def has_tasks(self) -> bool:
        """Some task has not ended."""
        return bool(self._tasks)

    @property
    def is_busy(self) -> bool:
        """Some request has no reply yet, as far as tasks and channels know."""
        return bool(self._tasks) or any(channel.is_busy for channel in self._channels)

    def try_send(self, attempt: Attempt, endpoint: Endpoint) -> bool:
        """Send a request. Return False where that has to be awaited in a task. With hedging it is in one already, which
        can be cancelled.
        """
        index = endpoint.index
        if self._hedges.is_on:
            self._hedges.watch(attempt, endpoint, self.send_in_task(attempt, endpoint))
            return True
        if self._is_paced:
            start = partial(self._channels[index].start, attempt, self._listeners[index])
            return self._departures.start(start, endpoint)
        return self._channels[index].start(attempt, self._listeners[index])

    def send_in_task(self, attempt: Attempt, endpoint: Endpoint) -> asyncio.Task[None]:
        """Send a request in a task, which goes on with the next ones."""
        return self.run_task(self._send_in_task(attempt, endpoint))

    def run_task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a task that the run waits for."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def abort(self) -> None:
        """End all requests without their replies, and wait for the tasks."""
        for task in self._tasks:
            task.cancel()
        for channel in self._channels:
            channel.abandon()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_in_task(self, attempt: Attempt, endpoint: Endpoint) -> None:
        dispatch: Dispatch | None = (attempt, endpoint)
        while dispatch is not None:
            attempt, endpoint = dispatch
            index = endpoint.index
            dispatch = self._next_after(
                attempt, endpoint, await self._channels[index].send(attempt, self._listeners[index])
            )

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._on_task_end(task)
