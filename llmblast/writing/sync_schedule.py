"""Sync schedule: when written records are due to be synced, and the sync that runs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class SyncSchedule:
    """Call `on_due` when a sync is due. At most one sync runs at a time."""

    def __init__(self, delay_s: float, on_due: Callable[[], None]) -> None:
        self.is_due = False
        self._delay_s = delay_s
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._sync: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """A sync is under way."""
        return self._sync is not None

    def record_write(self) -> None:
        """Let a sync be due `delay_s` seconds after the first write since the last one began."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._on_timer)

    def start(self, sync: Coroutine[Any, Any, None]) -> None:
        """Start a sync, which calls `on_end` at its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_due = False
        self._sync = asyncio.create_task(sync)

    def on_end(self) -> None:
        """Record that the sync has ended."""
        self._sync = None

    async def wait(self) -> None:
        """Wait until no sync runs."""
        if self._sync is not None:
            try:
                await self._sync
            finally:
                self._sync = None

    def _on_timer(self) -> None:
        self.is_due = True
        self._on_due()
