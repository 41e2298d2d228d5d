"""Answers leave in the order of the input, whatever order they come in; nothing that waits is lost."""

import asyncio
import errno
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Line
from llmblast.writing import (
    OutputFile,
    Timing,
    Writer,
    discard_waiting,
    reorder_window,
    take_in_waiting,
    waiting_file,
)
from llmblast.writing.ordered_writer import OrderedWriter
from llmblast.writing.reorder_window import Place, ReorderWindow
from llmblast.writing.waiting_file import WaitingFile
from tests.writing.writing_samples import a_failure, a_success, parsed

SOON = Timing(gather_s=0.001, sync_after_s=0.01)


def line(number: int) -> Line:
    return Line(number, f"{number:016x}", b"", number)


def make_writer(tmp_path: Path, notices: list[str] | None = None) -> tuple[OrderedWriter, OutputFile]:
    save, errors = OutputFile(str(tmp_path / "save.jsonl")), OutputFile(str(tmp_path / "errors.jsonl"))
    notice = (notices if notices is not None else []).append
    writer = Writer(save, errors, echo=True, body="auto", notice=notice, timing=SOON)
    return OrderedWriter(writer, WaitingFile(save), notice=notice, timing=SOON), save


def waiting_in(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("save.jsonl.waiting.*"))


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.data())
def test_records_leave_the_window_in_order(arrivals: list[int], failed: set[int], data: st.DataObject) -> None:
    """In memory, on disk or both; each one once, each place released once."""
    window, left, released = ReorderWindow(), list[str](), list[int]()
    places: dict[int, bytes] = {}

    def emit(ready: list[reorder_window.Held]) -> None:
        for held in ready:
            record = held.record
            if held.place is not None:
                released.append(held.place.position)
                record = places[held.place.position] if record is None else record
            assert record is not None
            left.append(record.decode())

    for number in range(12):
        window.expect(line(number))
    for number in arrivals:
        assert window.put(line(number), None if number in failed else str(number).encode())
        emit(window.take_ready(100, in_memory=True))
        if data.draw(st.booleans()):
            ordinals, records = window.take_unwritten()
            written = [Place(len(places) + n, len(record)) for n, record in enumerate(records)]
            places.update({place.position: record for place, record in zip(written, records, strict=True)})
            released += [place.position for place in window.record_written(ordinals, written)]
    emit(window.take_ready(100))

    assert left == [str(number) for number in range(12) if number not in failed]
    assert sorted(released) == sorted(places)
    assert len(window) == 0


def test_equal_lines_have_places_of_their_own() -> None:
    """The same number and text, as in two files."""
    window = ReorderWindow()
    window.expect(line(1))
    window.expect(line(1))

    window.put(line(1), b"a")
    window.put(line(1), b"b")

    assert [held.record for held in window.take_ready(100)] == [b"a", b"b"]
    assert not window.put(line(1), b"c")


async def test_answers_are_written_in_the_order_of_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that wait on disk only, in several segments; none of these is left."""
    monkeypatch.setattr(reorder_window, "MAX_HELD_BYTES", 2000)
    monkeypatch.setattr(waiting_file, "SEGMENT_BYTES", 5000)
    writer, save = make_writer(tmp_path)
    running = asyncio.ensure_future(writer.run())
    numbers = list(range(1, 301))
    for number in numbers:
        writer.expect(line(number))
    Random(1).shuffle(numbers)
    for count, number in enumerate(numbers):
        writer.put(a_failure(number) if number % 7 == 0 else a_success(number))
        if count % 20 == 0:
            await writer.flush()

    await writer.close()

    await running
    save.close()
    assert [record["line"] for record in parsed(tmp_path / "save.jsonl")] == [n for n in range(1, 301) if n % 7]
    assert len(parsed(tmp_path / "errors.jsonl")) == 300 // 7
    assert waiting_in(tmp_path) == []


async def test_a_slow_line_holds_the_others_back_until_it_is_there(tmp_path: Path) -> None:
    """They are durable meanwhile; a failed line holds nothing back, nor does one that is left out."""
    writer, _ = make_writer(tmp_path)
    running = asyncio.ensure_future(writer.run())
    for number in range(1, 6):
        writer.expect(line(number))
    writer.put(a_failure(1))
    writer.put(a_success(2))
    writer.put(a_success(5))
    await writer.flush()
    before = [record["line"] for record in parsed(tmp_path / "save.jsonl")]
    waiting = [record["line"] for path in waiting_in(tmp_path) for record in parsed(path)]

    writer.leave_out(line(4))
    writer.put(a_success(3))
    await writer.flush()

    after = [record["line"] for record in parsed(tmp_path / "save.jsonl")]
    await writer.close()
    await running
    assert (before, waiting, after) == ([2], [5], [2, 3, 5])


async def test_a_stopped_run_writes_what_waits(tmp_path: Path) -> None:
    """In order, with gaps where lines have no answer."""
    writer, _ = make_writer(tmp_path)
    running = asyncio.ensure_future(writer.run())
    for number in range(1, 8):
        writer.expect(line(number))
    for number in (7, 3, 5):
        writer.put(a_success(number))

    await writer.close()

    await running
    assert [record["line"] for record in parsed(tmp_path / "save.jsonl")] == [3, 5, 7]
    assert waiting_in(tmp_path) == []


async def test_a_line_that_was_not_expected_is_written_at_once(tmp_path: Path) -> None:
    """Better out of order than lost."""
    writer, _ = make_writer(tmp_path)
    running = asyncio.ensure_future(writer.run())
    writer.expect(line(1))

    writer.put(a_success(9))
    await writer.flush()

    assert [record["line"] for record in parsed(tmp_path / "save.jsonl")] == [9]
    await writer.close()
    await running


async def test_records_that_a_killed_run_left_waiting_are_taken_in(tmp_path: Path) -> None:
    """By line, each once, without the torn end; and removed afterwards."""
    writer, save = make_writer(tmp_path)
    running = asyncio.ensure_future(writer.run())
    for number in range(1, 6):
        writer.expect(line(number))
    for number in (5, 2, 4):
        writer.put(a_success(number))
    await writer.flush()
    writer.put(a_success(1))
    await writer.flush()
    running.cancel()
    save.close()
    with waiting_in(tmp_path)[0].open("ab") as file:
        file.write(b'{"key":"00')

    output = OutputFile(str(tmp_path / "save.jsonl"))
    take_in_waiting(output)

    assert [record["line"] for record in parsed(tmp_path / "save.jsonl")] == [1, 2, 4, 5]
    assert "2 records of an earlier run that waited for others were added" in output.repaired[-1]
    assert [path for path in waiting_in(tmp_path) if path.suffix != ".torn"] == []


async def test_a_run_that_starts_over_discards_them(tmp_path: Path) -> None:
    """With the output itself; nothing of other names goes."""
    (tmp_path / "save.jsonl.waiting.1").write_bytes(b"")
    (tmp_path / "save.jsonl.waiting.mine").write_bytes(b"")
    output = OutputFile(str(tmp_path / "save.jsonl"))

    discard_waiting(output)

    assert [path.name for path in waiting_in(tmp_path)] == ["save.jsonl.waiting.mine"]


async def test_without_room_for_what_waits_the_order_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost for its sake."""
    notices = list[str]()
    writer, _ = make_writer(tmp_path, notices)
    running = asyncio.ensure_future(writer.run())

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(WaitingFile, "append", full)
    for number in range(1, 5):
        writer.expect(line(number))
    for number in (4, 2):
        writer.put(a_success(number))
    await writer.flush()
    writer.put(a_success(3))
    await writer.flush()
    before = [record["line"] for record in parsed(tmp_path / "save.jsonl")]
    writer.put(a_success(1))
    await writer.close()

    await running
    assert before == [2, 4, 3]
    assert [record["line"] for record in parsed(tmp_path / "save.jsonl")] == [2, 4, 3, 1]
    assert "No space left on device; the answers from here on are not in the order" in notices[0]
