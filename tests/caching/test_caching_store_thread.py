"""The thread that uses the store: replies are found as soon as they are kept, and all are written in the end."""

import asyncio
import threading
from pathlib import Path

import pytest

from llmblast.caching import StoreError, StoreThread, store_thread
from llmblast.caching.answer_store import AnswerStore


class SlowStore(AnswerStore):
    """Writes only when it is told to."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.has_written = threading.Event()
        self.writes: list[dict[bytes, bytes]] = []

    def add(self, replies: "dict[bytes, bytes]") -> None:  # type: ignore[override] # what it gets is one
        self.may_write.wait(30)
        self.writes.append(dict(replies))
        super().add(replies)
        self.has_written.set()


class FailingStore(AnswerStore):
    """Has no room."""

    def add(self, replies: object) -> None:
        raise StoreError("c.db: cannot be written: disk full")


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def test_a_reply_is_found_before_it_is_written(tmp_path: Path) -> None:
    """Neither one that waits nor one that is being written is paid for twice."""
    store = SlowStore(str(tmp_path / "c.db"))
    thread = StoreThread(store, pytest.fail)
    thread.keep(key_of(1), b"x" * store_thread.SAVED_AT_ONCE_BYTES)
    thread.keep(key_of(2), b"two")

    found = await thread.find([key_of(1), key_of(2)])

    assert {key: len(body) for key, body in found.items()} == {
        key_of(1): store_thread.SAVED_AT_ONCE_BYTES,
        key_of(2): 3,
    }
    assert store.writes == []
    store.may_write.set()
    assert await thread.find([key_of(2), key_of(3)]) == {key_of(2): b"two"}
    await thread.close()


async def test_what_was_kept_is_in_the_file_at_the_end(tmp_path: Path) -> None:
    """However much of it waits when the run ends."""
    store = SlowStore(str(tmp_path / "c.db"))
    thread = StoreThread(store, pytest.fail)
    thread.keep(key_of(1), b"x" * store_thread.SAVED_AT_ONCE_BYTES)
    thread.keep(key_of(2), b"two")
    store.may_write.set()

    await thread.close()

    assert len(AnswerStore(str(tmp_path / "c.db")).find([key_of(1), key_of(2)])) == 2


async def test_a_slow_store_holds_the_run_back(tmp_path: Path) -> None:
    """Memory does not grow with what waits; once that is written, the run goes on."""
    store = SlowStore(str(tmp_path / "c.db"))
    thread = StoreThread(store, pytest.fail)
    has_room = asyncio.Event()
    thread.on_room = has_room.set
    for number in range(store_thread.MAX_UNSAVED_BYTES // store_thread.SAVED_AT_ONCE_BYTES):
        thread.keep(key_of(number), b"x" * store_thread.SAVED_AT_ONCE_BYTES)

    was_full = thread.is_full
    store.may_write.set()
    await has_room.wait()

    assert (was_full, thread.is_full) == (True, False)
    await thread.close()


async def test_replies_wait_for_others_for_a_moment_only(tmp_path: Path) -> None:
    """Other runs that use the file at the same time find them."""
    store = SlowStore(str(tmp_path / "c.db"))
    store.may_write.set()
    thread = StoreThread(store, pytest.fail)
    thread.keep(key_of(1), b"one")
    thread.keep(key_of(2), b"two")

    await asyncio.to_thread(store.has_written.wait, 30)

    assert store.writes == [{key_of(1): b"one", key_of(2): b"two"}]
    await thread.close()


async def test_a_store_without_room_is_told_once_and_still_asked(tmp_path: Path) -> None:
    """The answers of this run go to its files all the same."""
    told: list[str] = []
    is_told = asyncio.Event()

    def tell(text: str) -> None:
        told.append(text)
        is_told.set()

    AnswerStore(str(tmp_path / "c.db")).add({key_of(1): b"one"})
    thread = StoreThread(FailingStore(str(tmp_path / "c.db")), tell)
    for number in range(2, 6):
        thread.keep(key_of(number), b"x" * store_thread.SAVED_AT_ONCE_BYTES)

    await is_told.wait()
    thread.keep(key_of(9), b"nine")

    assert told == ["c.db: cannot be written: disk full"]
    assert await thread.find([key_of(1), key_of(9)]) == {key_of(1): b"one"}
    assert not thread.is_full
    await thread.close()
