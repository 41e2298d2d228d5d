"""The writer never blocks its callers, writes whole batches, and keeps what it could not write."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from llmblast.errors import ExitCode, OutputBlockedError, OutputFailedError
from llmblast.writing import OutputFile, Spool, Timing, Writer, render
from tests.writing.writing_samples import a_failure, a_success, parsed

MIB = 1024 * 1024
Run = Callable[[Coroutine[Any, Any, None]], None]

WRITE_UNTIL_KILLED = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from tests.writing.writing_samples import a_success
from llmblast.writing import OutputFile, Timing, Writer

async def main():
    writer = Writer(OutputFile(sys.argv[1]), OutputFile("/dev/null"), echo=True, body="auto",
                    notice=print, timing=Timing(gather_s=0))
    running = asyncio.ensure_future(writer.run())
    number = 0
    while True:
        for _ in range(50):
            number += 1
            writer.put(a_success(number, "x" * 2000))
        await writer.flush()
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on each kind of event loop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save.jsonl"


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    return tmp_path / "errors.jsonl"


class Watched(OutputFile):
    """A real file that counts what is done to it; `fail_sync` makes its device fail."""

    def __init__(self, path: Path, fail_sync: bool = False) -> None:
        super().__init__(str(path))
        self.appended: list[int] = []
        self.syncs = 0
        self.changed = asyncio.Event()
        self.fail_sync = fail_sync
        self._loop = asyncio.get_running_loop()

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        self.appended.append(len(data))
        self._loop.call_soon_threadsafe(self.changed.set)
        return super().append(data)

    def sync(self) -> None:
        self.syncs += 1
        self._loop.call_soon_threadsafe(self.changed.set)
        if self.fail_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something was done that makes it hold."""
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class Heard:
    """What the writer told."""

    def __init__(self) -> None:
        self.noticed = asyncio.Event()
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.noticed.set()


def a_writer(
    save: OutputFile,
    errors: OutputFile | None = None,
    heard: Heard | None = None,
    spool_directory: Path | None = None,
    **seconds: float,
) -> Writer:
    """A writer whose errors go nowhere unless a file is given."""
    heard = heard or Heard()
    return Writer(
        save,
        errors or OutputFile("/dev/null"),
        echo=True,
        body="auto",
        notice=heard.notice,
        spool_directory=None if spool_directory is None else str(spool_directory),
        timing=Timing(**seconds),
    )


def size_of(path: Path) -> int:
    """Bytes in a file."""
    return path.stat().st_size


async def read_to_end(fd: int) -> bytes:
    """Everything that comes out of a pipe until nobody writes any more."""

    def read() -> bytes:
        with open(fd, "rb") as pipe:
            return pipe.read()

    return await asyncio.to_thread(read)


def a_pipe(path: Path) -> int:
    """A named pipe with its reader's end open, so that a writer can open it."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def test_outcomes_reach_their_files(run: Run, save: Path, errors: Path) -> None:
    """Successes the one, failures the other, in order, and both are free afterwards."""

    async def main() -> None:
        writer = a_writer(OutputFile(str(save)), OutputFile(str(errors)))
        running = asyncio.ensure_future(writer.run())
        for number in range(1000):
            writer.put(a_success(number))
            writer.put(a_failure(number))
        await writer.close()
        await running

    run(main())

    assert [record["line"] for record in parsed(save)] == list(range(1000))
    assert [record["line"] for record in parsed(errors)] == list(range(1000))
    OutputFile(str(save)).close()


def test_closing_writes_what_nobody_has_flushed(run: Run, save: Path) -> None:
    """Even when the flush loop never ran, and when it starts too late."""

    async def main() -> None:
        writer = a_writer(OutputFile(str(save)))
        writer.put(a_success())
        await writer.close()
        await writer.run()

    run(main())

    assert len(parsed(save)) == 1


def test_the_files_stay_locked_until_the_writer_is_closed(run: Run, save: Path) -> None:
    """A run that still writes is a run."""

    async def main() -> None:
        writer = a_writer(OutputFile(str(save)))
        await writer.flush()
        with pytest.raises(OutputBlockedError):
            OutputFile(str(save))
        await writer.close()

    run(main())

    OutputFile(str(save)).close()


def test_records_gather_to_one_write(run: Run, save: Path) -> None:
    """No thread hop for a line."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file)
        running = asyncio.ensure_future(writer.run())
        for number in range(100):
            writer.put(a_success(number))
            await asyncio.sleep(0)
        await writer.close()
        await running
        assert file.appended == [size_of(save)]

    run(main())


def test_a_large_batch_does_not_wait(run: Run, save: Path) -> None:
    """At high rates the size of a batch decides, not the time."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file, gather_s=3600)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1, "x" * 1_100_000))
        await file.until(lambda: file.appended != [])
        await writer.close()
        await running

    run(main())

    assert len(parsed(save)) == 1


def test_the_reader_of_a_pipe_sees_a_record_soon(run: Run, tmp_path: Path) -> None:
    """Without another one behind it, and without a close."""
    reading = a_pipe(tmp_path / "pipe")

    async def main() -> None:
        writer = a_writer(OutputFile(str(tmp_path / "pipe")))
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(7))
        line = await asyncio.wait_for(asyncio.to_thread(os.read, reading, 10_000), 20)
        assert orjson.loads(line)["line"] == 7
        await writer.close()
        await running

    run(main())
    os.close(reading)


def test_a_full_writer_says_so_and_calls_when_there_is_room(run: Run, save: Path) -> None:
    """Memory is bounded by bytes; an outcome that is there already is still taken."""

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(save)), heard=heard)
        was_full = []
        for number in range(9):
            was_full.append(writer.is_full)
            writer.put(a_success(number, "x" * 1024 * 1024))
        assert was_full == [False] * 8 + [True]
        running = asyncio.ensure_future(writer.run())
        await asyncio.wait_for(writer.changed.wait(), 20)
        assert not writer.is_full
        await writer.close()
        await running
        assert not writer.is_full
        assert writer.failure is None

    run(main())

    assert len(parsed(save)) == 9


def test_a_lone_record_is_synced_though_nothing_follows(run: Run, save: Path) -> None:
    """A power cut costs a second of answers at most."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file, gather_s=0, sync_after_s=0.01)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await file.until(lambda: file.syncs == 1)
        writer.put(a_success(2))
        await file.until(lambda: file.syncs == 2)
        await writer.close()
        await running
        assert file.syncs == 2

    run(main())


def test_many_writes_share_one_sync(run: Run, save: Path) -> None:
    """A sync may take longer than all the writes together."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file, gather_s=0, sync_after_s=3600)
        running = asyncio.ensure_future(writer.run())
        for number in range(10):
            writer.put(a_success(number))
            await file.until(lambda written=number + 1: len(file.appended) == written)  # type: ignore[misc]
        assert file.syncs == 0
        await writer.close()
        await running
        assert file.syncs == 1

    run(main())


def test_many_bytes_are_synced_before_their_second_is_over(run: Run, save: Path) -> None:
    """So that a sync never has a mountain to move."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file, gather_s=0, sync_after_s=3600)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1, "x" * 4 * MIB))
        await file.until(lambda: file.syncs == 1)
        await writer.close()
        await running

    run(main())


def spooled(directory: Path) -> list[int]:
    """The line numbers of all records in second places."""
    return [record["line"] for path in sorted(directory.glob("*.spool.jsonl")) for record in parsed(path)]


class SlowDisk(Watched):
    """Its syncs begin, and end when somebody lets them; `running` says how many are under way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on = threading.Event()
        self.running = 0
        self.most_running = 0
        self.synced_bytes = 0

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        done = super().append(data)
        self._loop.call_soon_threadsafe(self.changed.set)
        return done

    def sync(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        size_bytes = self.size_bytes
        self._loop.call_soon_threadsafe(self.changed.set)
        try:
            assert self.go_on.wait(20)
            super().sync()
            self.synced_bytes = size_bytes
        finally:
            self.running -= 1


def test_records_are_written_while_a_sync_runs(run: Run, save: Path) -> None:
    """What the system has survives a kill, however slow the disk is; and one sync runs at a time."""

    async def main() -> None:
        file = SlowDisk(save)
        writer = a_writer(file, gather_s=0, sync_after_s=0)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(0))
        await file.until(lambda: file.running == 1)
        for number in range(1, 4):
            writer.put(a_success(number))
            await file.until(lambda number=number: len(parsed(save)) == number + 1)  # type: ignore[misc] # its default
        still_running = file.running
        file.go_on.set()
        await file.until(lambda: file.syncs == 2)
        await writer.close()
        await running

        assert (still_running, file.most_running) == (1, 1)

    run(main())
    assert [record["line"] for record in parsed(save)] == [0, 1, 2, 3]


def test_a_flush_waits_for_a_sync_that_covers_it(run: Run, save: Path) -> None:
    """One that began before its record was written does not count."""

    async def main() -> None:
        file = SlowDisk(save)
        writer = a_writer(file, gather_s=0, sync_after_s=0)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(0))
        await file.until(lambda: file.running == 1)
        writer.put(a_success(1))
        flushing = asyncio.ensure_future(writer.flush())
        await file.until(lambda: len(parsed(save)) == 2)
        flushed_early = flushing.done()
        file.go_on.set()
        await flushing

        assert not flushed_early
        assert file.synced_bytes == size_of(save)
        await writer.close()
        await running

    run(main())


def test_what_is_unsynced_is_bounded_while_a_sync_runs(run: Run, save: Path) -> None:
    """It is in memory, too: 4 MiB of the sync that runs and 8 MiB more, then nothing is written before its end."""

    async def main() -> None:
        file = SlowDisk(save)
        writer = a_writer(file, gather_s=0, sync_after_s=3600)
        running = asyncio.ensure_future(writer.run())
        outcome = a_success(1, "x" * MIB)
        put_bytes = 0
        while put_bytes <= 12 * MIB:
            writer.put(outcome)
            put_bytes += len(render(outcome))
            await file.until(lambda size=put_bytes: file.size_bytes == size)  # type: ignore[misc] # its default
        writer.put(outcome)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await file.until(lambda: file.size_bytes > put_bytes)
        file.go_on.set()
        await file.until(lambda: file.size_bytes > put_bytes and file.syncs == 2)
        await writer.close()
        await running

    run(main())


def test_a_sync_that_fails_takes_along_what_was_written_meanwhile(run: Run, save: Path, tmp_path: Path) -> None:
    """Its device may have lost that, too; the sync is not repeated, and every record is there once."""

    async def main() -> None:
        file, heard = SlowDisk(save), Heard()
        writer = a_writer(file, None, heard, tmp_path, gather_s=0, sync_after_s=0)
        running = asyncio.ensure_future(writer.run())
        file.go_on.set()
        writer.put(a_success(0))
        await writer.flush()
        file.go_on.clear()
        syncs_before = file.syncs
        writer.put(a_success(1))
        await file.until(lambda: file.running == 1)
        writer.put(a_success(2))
        await file.until(lambda: len(parsed(save)) == 3)
        file.fail_sync = True
        file.go_on.set()
        await asyncio.wait_for(writer.changed.wait(), 20)
        with pytest.raises(OutputFailedError, match=r"cannot be synced .*; 2 records are in "):
            await writer.close()
        await running

        assert file.syncs == syncs_before + 1

    run(main())
    (spool,) = tmp_path.glob("*.spool.jsonl")
    assert [record["line"] for record in parsed(save)] == [0]
    assert [record["line"] for record in parsed(spool)] == [1, 2]


def test_a_failed_sync_is_never_repeated(run: Run, save: Path, tmp_path: Path) -> None:
    """A second one would report success for data that the kernel has dropped: what was not safe goes elsewhere."""

    async def main() -> None:
        heard = Heard()
        file = Watched(save, fail_sync=True)
        writer = a_writer(file, None, heard, tmp_path, gather_s=0, sync_after_s=0)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await asyncio.wait_for(writer.changed.wait(), 20)
        writer.put(a_success(2))
        with pytest.raises(OutputFailedError, match=r"cannot be synced .*: Input/output error; 2 records are in "):
            await writer.close()
        await running
        assert file.syncs == 1
        assert writer.failure is not None

    run(main())

    assert spooled(tmp_path) == [1, 2]
    assert parsed(save) == []


def test_what_is_synced_is_not_spooled(run: Run, save: Path, tmp_path: Path) -> None:
    """Only what a power cut could still take goes to the second place."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file, None, None, tmp_path)
        writer.put(a_success(1))
        await writer.flush()
        file.fail_sync = True
        writer.put(a_success(2))
        with pytest.raises(OutputFailedError, match="1 record is in"):
            await writer.close()

    run(main())

    assert [record["line"] for record in parsed(save)] == [1]
    assert spooled(tmp_path) == [2]


def test_a_full_device_is_left_for_a_second_place(run: Run, tmp_path: Path) -> None:
    """The job stops sending at once, and exits 74 with all that the device did not take in another file."""

    async def main() -> None:
        heard = Heard()
        full = OutputFile("/dev/full"), OutputFile("/dev/full")
        writer = a_writer(*full, heard, tmp_path, disk_wait_s=0)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        writer.put(a_failure(2))
        await asyncio.wait_for(writer.changed.wait(), 20)
        writer.put(a_success(3))
        assert "/dev/full: cannot be written: No space left on device; 1 record is in" in str(writer.failure)
        with pytest.raises(OutputFailedError, match=r"2 records are in .*1 record is in") as caught:
            await writer.close()
        await running
        assert caught.value.exit_code == ExitCode.OUTPUT_FAILED
        assert writer.failure is not None

    run(main())

    assert sorted(spooled(tmp_path)) == [1, 2, 3]


def test_a_full_disk_is_waited_for(run: Run, save: Path, tmp_path: Path) -> None:
    """When somebody makes room the run goes on: nothing is missing, nothing is there twice, nothing is spooled."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(save)), None, heard, tmp_path, retry_s=0.01)
        running = asyncio.ensure_future(writer.run())
        for number in range(100):
            writer.put(a_success(number))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            await asyncio.wait_for(heard.noticed.wait(), 20)
            was_full = writer.is_full
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.put(a_success(100))
        await asyncio.wait_for(writer.changed.wait(), 20)
        assert (was_full, writer.is_full) == (True, False)
        writer.put(a_success(101))
        await writer.close()
        await running
        assert not writer.is_full
        assert writer.failure is None
        assert "cannot be written: File too large; sending is paused until there is room, for 60 s" in heard.notices[0]
        assert "there is room again" in heard.notices[1]

    run(main())

    assert [record["line"] for record in parsed(save)] == list(range(102))
    assert spooled(tmp_path) == []


def test_whoever_wants_the_end_need_not_wait_for_room(run: Run, tmp_path: Path) -> None:
    """Ctrl-C takes the records to the second place at once."""

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile("/dev/full"), None, heard, tmp_path, gather_s=0, retry_s=3600)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await asyncio.wait_for(heard.noticed.wait(), 20)
        assert writer.failure is None
        writer.stop_waiting()
        await asyncio.wait_for(writer.changed.wait(), 20)
        with pytest.raises(OutputFailedError):
            await writer.close()
        await running

    run(main())

    assert spooled(tmp_path) == [1]


def test_records_that_no_place_takes_are_kept_until_one_does(
    run: Run, save: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending has stopped, so waiting costs nothing; exiting would cost what was paid for. Whichever place has room
    first gets them.
    """
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(save)), None, heard, tmp_path, gather_s=0, retry_s=0.01, disk_wait_s=0)
        running = asyncio.ensure_future(writer.run())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            writer.put(a_success(1))
            await asyncio.wait_for(heard.noticed.wait(), 20)
            closing = asyncio.ensure_future(writer.close())
            finished, _ = await asyncio.wait([closing], timeout=0.1)
            assert not finished
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await asyncio.gather(closing, return_exceptions=True)
        await running
        assert "no other place takes its records" in heard.notices[0]

    run(main())

    assert [record["line"] for record in parsed(save)] + spooled(tmp_path) == [1]


class BreaksAndFills(Watched):
    """Its device fails at a sync, and from then on no file can grow."""

    def sync(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        super().sync()


def test_a_failed_sync_is_not_repeated_while_no_place_has_room(
    run: Run, save: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that failed is left alone, however often the other places are tried."""
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main() -> None:
        file = BreaksAndFills(save, fail_sync=True)
        writer = a_writer(file, None, None, tmp_path)
        writer.put(a_success(1))
        try:
            await writer.flush()
            writer.put(a_success(2))
            await writer.flush()
            await writer.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(OutputFailedError, match="2 records are in"):
            await writer.close()
        assert (file.syncs, len(file.appended)) == (1, 1)

    run(main())

    assert spooled(tmp_path) == [1, 2]


class HasRoomLater(Watched):
    """Has no room at first; while it takes the second try, `meanwhile` happens on the loop."""

    meanwhile: Callable[[], Coroutine[Any, Any, None]]

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        if len(self.appended) == 0:
            self.appended.append(0)
            return 0, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(self.appended) == 1:
            asyncio.run_coroutine_threadsafe(self.meanwhile(), self._loop).result(20)
        return super().append(data)


def test_what_comes_while_room_is_found_is_not_forgotten(run: Run, save: Path, tmp_path: Path) -> None:
    """Its own timer has run out by then."""

    async def main() -> None:
        file = HasRoomLater(save)
        writer = a_writer(file, None, None, tmp_path, gather_s=0, retry_s=0.01, sync_after_s=3600)

        async def meanwhile() -> None:
            writer.put(a_success(2))
            await asyncio.sleep(0.01)

        file.meanwhile = meanwhile
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await file.until(lambda: len(file.appended) == 3)
        await writer.close()
        await running

    run(main())

    assert [record["line"] for record in parsed(save)] == [1, 2]


def test_what_is_lost_is_counted(run: Run, save: Path, tmp_path: Path) -> None:
    """Where no place takes the records and a person wants the end, the truth is told."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main() -> None:
        writer = a_writer(OutputFile(str(save)), None, None, tmp_path, disk_wait_s=0)
        writer.put(a_success(1))
        writer.put(a_success(2))
        writer.stop_waiting()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(OutputFailedError, match="2 records are lost: they could not be written anywhere else"):
                await writer.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    run(main())

    assert spooled(tmp_path) == []


def take_away(path: Path, how: str) -> None:
    """What people and programs do to a file that somebody still writes."""
    if how == "removed":
        path.unlink()
        return
    path.rename(f"{path}.1")
    if how == "replaced":
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["removed", "rotated", "replaced"])
def test_a_file_that_lost_its_name_is_rescued_whole(run: Run, save: Path, tmp_path: Path, how: str) -> None:
    """Its descriptor still reaches everything; the next run takes it in under the name again."""
    (place := tmp_path / "place").mkdir()

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(save)), None, heard, place, gather_s=0, sync_after_s=0.01)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await writer.flush()
        take_away(save, how)
        writer.put(a_success(2))
        await asyncio.wait_for(writer.changed.wait(), 20)
        writer.put(a_success(3))
        with pytest.raises(
            OutputFailedError, match=r"it was removed or replaced .*; 3 records are in .*: run the same"
        ):
            await writer.close()
        await running

    run(main())
    save.touch()
    output = OutputFile(str(save))
    Spool(output, str(place)).take_in(output)
    output.close()

    assert [record["line"] for record in parsed(save)] == [1, 2, 3]
    assert list(place.iterdir()) == []


def test_a_file_that_was_removed_before_the_end_is_rescued(run: Run, save: Path, tmp_path: Path) -> None:
    """Even where everything had been synced before."""

    async def main() -> None:
        writer = a_writer(OutputFile(str(save)), None, None, tmp_path)
        writer.put(a_success(1))
        await writer.flush()
        take_away(save, "removed")
        with pytest.raises(OutputFailedError, match="1 record is in"):
            await writer.close()

    run(main())

    assert spooled(tmp_path) == [1]


def change(path: Path, how: str) -> None:
    """What another program does to a file that is written."""
    if how == "truncated":
        os.truncate(path, 0)
        return
    with path.open("ab") as file:
        file.write(b"a note\n")


@pytest.mark.parametrize("how", ["truncated", "written to"])
def test_a_file_that_somebody_else_changes_is_left_to_them(run: Run, save: Path, tmp_path: Path, how: str) -> None:
    """Noticed before the next write; what had not been synced is safe, and nothing of theirs is cut off."""
    (place := tmp_path / "place").mkdir()

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(save)), None, heard, place, gather_s=0)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await writer.flush()
        change(save, how)
        changed_bytes = size_of(save)
        writer.put(a_success(2))
        await asyncio.wait_for(writer.changed.wait(), 20)
        writer.put(a_success(3))
        with pytest.raises(
            OutputFailedError,
            match=r"save\.jsonl: another process changed it .* 2 records are in .* run the same command",
        ):
            await writer.close()
        await running
        assert size_of(save) == changed_bytes
        assert writer.failure is not None

    run(main())

    assert spooled(place) == [2, 3]


@pytest.mark.parametrize("how", ["truncated", "written to"])
def test_a_file_that_was_changed_after_the_last_record_is_noticed(
    run: Run, save: Path, tmp_path: Path, how: str
) -> None:
    """At the latest when the run ends; there is nothing to put anywhere else."""
    (place := tmp_path / "place").mkdir()

    async def main() -> None:
        writer = a_writer(OutputFile(str(save)), None, None, place)
        writer.put(a_success(1))
        await writer.flush()
        change(save, how)
        with pytest.raises(OutputFailedError, match=r"another process changed it .* \([\d,]+ bytes instead of") as told:
            await writer.close()
        assert "records are" not in str(told.value)

    run(main())

    assert list(place.iterdir()) == []
    assert not os.path.lexists(f"{save}.spool")


def test_a_file_that_was_truncated_is_noticed_at_a_sync(run: Run, save: Path, tmp_path: Path) -> None:
    """Before more answers are paid for, though no record follows."""

    async def main() -> None:
        heard = Heard()
        file = Watched(save)
        writer = a_writer(file, None, heard, tmp_path, gather_s=0, sync_after_s=0.2)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await file.until(lambda: save.stat().st_size > 0)
        change(save, "truncated")
        await asyncio.wait_for(writer.changed.wait(), 20)
        with pytest.raises(OutputFailedError, match="another process changed it"):
            await writer.close()
        await running

    run(main())

    assert spooled(tmp_path) == [1]


def test_a_reader_that_has_gone_loses_nothing_more(run: Run, tmp_path: Path) -> None:
    """`llmblast run - -o - | head -1`: what was paid for and not read is in a file of its own, whole records only."""
    (place := tmp_path / "place").mkdir()
    reading = a_pipe(tmp_path / "pipe")

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(tmp_path / "pipe")), None, heard, place)
        running = asyncio.ensure_future(writer.run())
        for number in range(4):
            writer.put(a_success(number, "x" * 50_000))
        read = await asyncio.to_thread(os.read, reading, 70_000)
        os.close(reading)
        await asyncio.wait_for(writer.changed.wait(), 20)
        assert read.count(b"\n") <= 1
        writer.put(a_success(4))
        with pytest.raises(OutputFailedError, match=r"pipe: its reader has closed it; .* \(only a run with --save"):
            await writer.close()
        await running
        assert writer.failure is not None

    run(main())

    assert spooled(place)[-3:] == [2, 3, 4]


def test_a_slow_reader_of_answers_does_not_hold_up_errors(run: Run, tmp_path: Path, errors: Path) -> None:
    """Each file has its own flush loop."""
    reading = a_pipe(tmp_path / "pipe")

    async def main() -> None:
        file = Watched(errors)
        writer = a_writer(OutputFile(str(tmp_path / "pipe")), file)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1, "x" * 1_000_000))
        writer.put(a_failure(2))
        await file.until(lambda: file.syncs == 1)
        assert len(parsed(errors)) == 1
        answers, _ = await asyncio.gather(read_to_end(reading), writer.close())
        await running
        assert len(answers.splitlines()) == 1

    run(main())


def test_a_cancelled_flush_loop_loses_and_doubles_nothing(run: Run, tmp_path: Path) -> None:
    """The write in its thread goes on, so its end must be waited for and counted."""
    reading = a_pipe(tmp_path / "pipe")

    async def main() -> None:
        writer = a_writer(OutputFile(str(tmp_path / "pipe")), gather_s=0)
        running = asyncio.ensure_future(writer.run())
        for number in range(1000):
            writer.put(a_success(number, "x" * 1000))
        first = await asyncio.wait_for(asyncio.to_thread(os.read, reading, 1), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        closing = asyncio.ensure_future(writer.close())
        closed_early, _ = await asyncio.wait([closing], timeout=0.05)
        assert not closed_early
        rest, _ = await asyncio.gather(read_to_end(reading), closing)
        lines = (first + rest).splitlines()
        assert [orjson.loads(line)["line"] for line in lines] == list(range(1000))

    run(main())


def test_a_cancelled_close_still_goes_to_its_end(run: Run, save: Path) -> None:
    """The second Ctrl-C must not tear what is being written."""

    async def main() -> None:
        file = Watched(save)
        writer = a_writer(file)
        writer.put(a_success(1))
        closing = asyncio.ensure_future(writer.close())
        await file.until(lambda: file.appended != [])
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await file.until(lambda: file.syncs == 1)

    run(main())

    assert len(parsed(save)) == 1


@pytest.mark.parametrize("flushes", [1, 2, 5])
def test_every_flushed_record_survives_a_kill(save: Path, flushes: int) -> None:
    """And what the kill tore is put right by the next opening."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(save), str(Path(__file__).parents[2])], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        flushed = [int(process.stdout.readline()) for _ in range(flushes)][-1]
        process.send_signal(signal.SIGKILL)

    OutputFile(str(save)).close()

    lines = [record["line"] for record in parsed(save)]
    assert lines == list(range(1, len(lines) + 1))
    assert len(lines) >= flushed
