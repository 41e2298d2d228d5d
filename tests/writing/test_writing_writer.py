"""The writer never blocks its callers, writes whole batches, and keeps what it could not write."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from llmblast.errors import ExitCode, OutputBlockedError, OutputFailedError
from llmblast.writing import OutputFile, Writer
from tests.writing.writing_samples import a_failure, a_success, parsed

Run = Callable[[Coroutine[Any, Any, None]], None]

WRITE_UNTIL_KILLED = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from tests.writing.writing_samples import a_success
from llmblast.writing import OutputFile, Writer

async def main():
    writer = Writer(OutputFile(sys.argv[1]), OutputFile("/dev/null"), echo=True, body="auto",
                    on_room=lambda: None, on_failure=lambda: None, gather_s=0)
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
        self._fail_sync = fail_sync
        self._loop = asyncio.get_running_loop()

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        self.appended.append(len(data))
        self._loop.call_soon_threadsafe(self.changed.set)
        return super().append(data)

    def sync(self) -> None:
        self.syncs += 1
        self._loop.call_soon_threadsafe(self.changed.set)
        if self._fail_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something was done that makes it hold."""
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class Heard:
    """What the writer called back."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.failed = asyncio.Event()
        self.calls: list[str] = []

    def on_room(self) -> None:
        self.calls.append("room")
        self.room.set()

    def on_failure(self) -> None:
        self.calls.append("failure")
        self.failed.set()


def a_writer(
    save: OutputFile, errors: OutputFile | None = None, heard: Heard | None = None, **seconds: float
) -> Writer:
    """A writer whose errors go nowhere unless a file is given."""
    heard = heard or Heard()
    return Writer(
        save,
        errors or OutputFile("/dev/null"),
        echo=True,
        body="auto",
        on_room=heard.on_room,
        on_failure=heard.on_failure,
        **seconds,
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
        writer.put(a_success(1, "x" * 300_000))
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
        await asyncio.wait_for(heard.room.wait(), 20)
        assert not writer.is_full
        await writer.close()
        await running
        assert heard.calls == ["room"]

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
        writer.put(a_success(1, "x" * 9 * 1024 * 1024))
        await file.until(lambda: file.syncs == 1)
        await writer.close()
        await running

    run(main())


def test_a_failed_sync_is_never_repeated(run: Run, save: Path) -> None:
    """A second one would report success for data that the kernel has dropped."""

    async def main() -> None:
        heard = Heard()
        file = Watched(save, fail_sync=True)
        writer = a_writer(file, heard=heard, gather_s=0, sync_after_s=0)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await asyncio.wait_for(heard.failed.wait(), 20)
        writer.put(a_success(2))
        with pytest.raises(OutputFailedError, match=r"cannot be synced .*: Input/output error\. Mend that and run"):
            await writer.close()
        await running
        assert file.syncs == 1
        assert heard.calls == ["failure"]

    run(main())

    assert len(parsed(save)) == 2


def test_a_full_device_is_reported_at_once_and_again_at_the_end(run: Run) -> None:
    """The job stops sending at the first, and exits 74 with the second."""

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile("/dev/full"), OutputFile("/dev/full"), heard)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        writer.put(a_failure(2))
        await asyncio.wait_for(heard.failed.wait(), 20)
        await running
        writer.put(a_success(3))
        assert "/dev/full: cannot be written: No space left on device. Make room and run" in str(writer.failure)
        with pytest.raises(OutputFailedError, match="2 records are missing: No space left on device") as caught:
            await writer.close()
        assert caught.value.exit_code == ExitCode.OUTPUT_FAILED
        assert heard.calls == ["failure"]

    run(main())


def test_a_write_that_broke_off_goes_on_where_it_stopped(run: Run, save: Path) -> None:
    """When there is room again at the end, nothing is missing and nothing is there twice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(save)), heard=heard)
        running = asyncio.ensure_future(writer.run())
        for number in range(100):
            writer.put(a_success(number))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            await asyncio.wait_for(heard.failed.wait(), 20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert size_of(save) == 1000
        writer.put(a_success(100))
        await writer.close()
        await running

    run(main())

    assert [record["line"] for record in parsed(save)] == list(range(101))


def test_a_reader_that_has_gone_ends_the_run_quietly(run: Run, tmp_path: Path) -> None:
    """`llmblast run - -o - | head -1` wants no more, so what is left is no loss."""
    reading = a_pipe(tmp_path / "pipe")

    async def main() -> None:
        heard = Heard()
        writer = a_writer(OutputFile(str(tmp_path / "pipe")), heard=heard)
        os.close(reading)
        running = asyncio.ensure_future(writer.run())
        writer.put(a_success(1))
        await asyncio.wait_for(heard.failed.wait(), 20)
        writer.put(a_success(2))
        await writer.close()
        await running
        assert "pipe: nobody reads it any more" in str(writer.failure)
        assert heard.calls == ["failure"]

    run(main())


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
