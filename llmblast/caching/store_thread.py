"""Store thread: the one thread that uses the answer store, with many keys and replies at a time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmblast.caching.answer_store import AnswerStore

SAVE_INTERVAL_S = 0.25
"""Maximum age of a reply that is not in the store yet, while the store is fast enough."""
SAVED_AT_ONCE_BYTES = 2 * 1024 * 1024
MAX_UNSAVED_BYTES = 16 * 1024 * 1024

Replies = dict[bytes, bytes]
"""By the keys of their requests."""


class StoreError(Exception):
    """The store cannot be read or written; the text is one sentence for a person."""


class StoreThread:
    """Ask and fill a store from the event loop.

    `on_room` is called when `is_full` has ended, `on_failure` gets the sentence that says why no
    more replies are kept: what is in the store can still be found.
    """

    def __init__(self, store: "AnswerStore", on_failure: Callable[[str], None]) -> None:
        self.on_room: Callable[[], None] = _do_nothing
        self.looking = asyncio.Lock()
        """To be held from a search until the requests that are not there are in flight: inputs are read at once."""
        self._store = store
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, "llmblast-cache")
        self._collected: Replies = {}
        self._being_saved: Replies = {}
        self._collected_bytes = self._saved_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None
        self._has_failed = False

    @property
    def is_full(self) -> bool:
        """Return whether too many replies wait to be written."""
        return self._collected_bytes + self._saved_bytes >= MAX_UNSAVED_BYTES

    def keep(self, key: bytes, body: bytes) -> None:
        """Keep a reply soon."""
        if self._has_failed:
            return
        self._collected[key] = body
        self._collected_bytes += len(body)
        self._save_later()
        if self._collected_bytes >= SAVED_AT_ONCE_BYTES:
            self._save()

    async def find(self, keys: Sequence[bytes]) -> Replies:
        """Return the replies that are known, by their keys, all that were kept before among them. Raises StoreError."""
        unsaved: Replies = {}
        for replies in (self._being_saved, self._collected):
            if replies:
                unsaved.update({key: replies[key] for key in keys if key in replies})
        wanted = [key for key in keys if key not in unsaved] if unsaved else keys
        if not wanted:
            return unsaved
        found = await asyncio.get_running_loop().run_in_executor(self._thread, self._store.find, wanted)
        return {**found, **unsaved} if unsaved else found

    async def close(self) -> None:
        """Write what was collected, and close the store."""
        while self._being_saved or self._collected:
            self._save()
            if self._saving is not None:
                await asyncio.wait([self._saving])
            await asyncio.sleep(0)  # `_on_saved` runs now
        await asyncio.to_thread(self._thread.shutdown)
        self._store.close()

    def _save(self) -> None:
        """Let the thread write what was collected; while it does, more is collected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._being_saved or not self._collected:
            return
        self._being_saved, self._collected = self._collected, {}
        self._saved_bytes, self._collected_bytes = self._collected_bytes, 0
        loop = asyncio.get_running_loop()
        self._saving = loop.run_in_executor(self._thread, self._store.add, self._being_saved)
        self._saving.add_done_callback(self._on_saved)

    def _on_saved(self, saved: "asyncio.Future[None]") -> None:
        was_full = self.is_full
        self._being_saved, self._saved_bytes = {}, 0
        if not saved.cancelled() and (error := saved.exception()) is not None:
            self._fail(error)
        if self._collected:
            self._save_later()
        if was_full and not self.is_full:
            self.on_room()

    def _save_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_INTERVAL_S, self._save)

    def _fail(self, error: BaseException) -> None:
        self._has_failed = True
        self._collected, self._collected_bytes = {}, 0
        if not isinstance(error, StoreError):
            raise error
        self._on_failure(str(error))


def _do_nothing() -> None: ...
