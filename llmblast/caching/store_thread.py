"""Store thread: the one thread that uses the answer store, with many keys and replies at a time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmblast.caching.answer_store import AnswerStore

SAVE_INTERVAL_S = 0.25
"""Maximum age of a reply that is not in the store yet, while the store is fast enough."""
SAVED_AT_ONCE_BYTES = 1024 * 1024
MAX_UNSAVED_BYTES = 8 * 1024 * 1024

Replies = list[tuple[bytes, bytes]]


class StoreError(Exception):
    """The store cannot be read or written; the text is one sentence for a person."""


class StoreThread:
    """Ask and fill a store from the event loop.

    `on_room` is called when `is_full` has ended, `on_failure` gets the sentence that says why no
    more replies are kept: what is in the store can still be found.
    """

    def __init__(self, store: "AnswerStore", on_failure: Callable[[str], None]) -> None:
        self.on_room: Callable[[], None] = _do_nothing
        self._store = store
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, "llmblast-cache")
        self._collected: Replies = []
        self._collected_bytes = self._unsaved_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._has_failed = False

    @property
    def is_full(self) -> bool:
        """Return whether too many replies wait to be written."""
        return self._unsaved_bytes >= MAX_UNSAVED_BYTES

    def keep(self, key: bytes, body: bytes) -> None:
        """Keep a reply soon."""
        if self._has_failed:
            return
        self._collected.append((key, body))
        self._collected_bytes += len(body)
        self._unsaved_bytes += len(body)
        if self._collected_bytes >= SAVED_AT_ONCE_BYTES:
            self._save()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_INTERVAL_S, self._save)

    async def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the replies that are known, by their keys, all that were kept before among them. Raises StoreError."""
        return await asyncio.shield(self._run(keys))  # a cancelled search still writes what was collected

    async def close(self) -> None:
        """Write what was collected, and close the store."""
        await self._run(())
        await asyncio.to_thread(self._thread.shutdown)
        self._store.close()

    def _save(self) -> None:
        self._run(()).add_done_callback(_retrieve)

    def _run(self, keys: Sequence[bytes]) -> "asyncio.Future[Mapping[bytes, bytes]]":
        """Let the thread write what was collected, then search for the keys."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        replies, size_bytes = self._collected, self._collected_bytes
        self._collected, self._collected_bytes = [], 0
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._thread, self._work, loop, replies, keys)
        done.add_done_callback(partial(self._on_done, size_bytes))
        return done

    def _work(self, loop: asyncio.AbstractEventLoop, replies: Replies, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        if replies:
            try:
                self._store.add(replies)
            except StoreError as error:
                loop.call_soon_threadsafe(self._fail, str(error))
        return self._store.find(keys) if keys else {}

    def _on_done(self, size_bytes: int, done: object) -> None:
        was_full = self.is_full
        self._unsaved_bytes -= size_bytes
        if was_full and not self.is_full:
            self.on_room()

    def _fail(self, why: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._on_failure(why)


def _do_nothing() -> None: ...


def _retrieve(done: "asyncio.Future[Mapping[bytes, bytes]]") -> None:
    """Take the error of a future that nothing awaits: writing reports its own."""
    if not done.cancelled():
        done.exception()
