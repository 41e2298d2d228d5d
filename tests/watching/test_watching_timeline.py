"""The series for plots: its lines, the files it refuses, and disks and pipes that fail."""

import fcntl
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import orjson
import pytest

from llmblast.errors import ExitCode, OutputBlockedError
from llmblast.watching import Timeline
from llmblast.watching.counters import Counters
from tests.watching.watching_helpers import FakeClock, busy_counters, endpoint

NOON = 1_767_268_800.25
EARLIER = b'{"t":1.0,"time":"2025-12-31T12:00:00.000Z","sent":999}\n' * 100

needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def make_timeline(path: Path | str, counters: Counters | None = None, clock: FakeClock | None = None) -> Timeline:
    return Timeline(str(path), counters or Counters(), clock or FakeClock(), lambda: NOON)


def test_a_line_has_the_totals_and_those_of_each_endpoint(tmp_path: Path) -> None:
    """Every figure in its place, in the order that is promised."""
    row = endpoint("gpu1", 21, 12, "cooling down", tokens=(100, 40))
    row.in_flight, row.errors, row.rate_limited = 4, 3, 2
    counters = Counters(endpoints=[row], skipped=7, sent=21, succeeded=12, failed=1, retries=5, rate_limited=2)
    counters.in_flight, counters.queued, counters.hedged = 4, 9, 2
    clock, file = FakeClock(), tmp_path / "timeline.jsonl"
    timeline = make_timeline(file, counters, clock)

    clock.advance(1.50049)
    timeline.tick()

    assert file.read_bytes() == (
        b'{"t":1.5,"time":"2026-01-01T12:00:00.250Z","sent":21,"done":20,"succeeded":12,"failed":1,"retries":5,'
        b'"hedged":2,"rate_limited":2,"tokens":140,"in_flight":4,"queued":9,"endpoints":[{"name":"gpu1","sent":21,'
        b'"succeeded":12,"errors":3,"rate_limited":2,"tokens":140,"in_flight":4,"state":"cooling down"}]}\n'
    )
    timeline.close()


def test_each_tick_is_one_line_that_can_be_read_at_once(tmp_path: Path) -> None:
    """A plot can follow a run that is still on."""
    counters, clock, file = Counters(), FakeClock(), tmp_path / "timeline.jsonl"
    timeline = make_timeline(file, counters, clock)
    seen = [file.read_bytes()]

    for _ in range(3):
        clock.advance(1)
        counters.sent += 10
        timeline.tick()
        seen.append(file.read_bytes())
    timeline.close()

    assert [text.count(b"\n") for text in seen] == [0, 1, 2, 3]
    assert file.read_bytes() == seen[-1]
    lines = [orjson.loads(line) for line in seen[-1].splitlines()]
    assert [(line["t"], line["sent"]) for line in lines] == [(1.0, 10), (2.0, 20), (3.0, 30)]
    assert timeline.failure is None


def test_the_time_is_utc_wherever_the_machine_stands(tmp_path: Path) -> None:
    """Any parser of RFC 3339 gets the same moment back."""
    file = tmp_path / "timeline.jsonl"
    timeline = Timeline(str(file), Counters(), FakeClock(), lambda: 1_767_268_800)

    timeline.tick()
    timeline.close()

    told = orjson.loads(file.read_bytes())["time"]
    assert told == "2026-01-01T12:00:00.000Z"
    assert datetime.fromisoformat(told).timestamp() == 1_767_268_800


def test_text_from_outside_is_cleaned(tmp_path: Path) -> None:
    """Somebody will look at the file in a terminal."""
    counters = Counters(endpoints=[endpoint("gpu\x1b[2J1\ud800", state="\x1b]0;x\x07down\u202e")])
    file = tmp_path / "timeline.jsonl"
    timeline = make_timeline(file, counters)

    timeline.tick()
    timeline.close()

    values = orjson.loads(file.read_bytes())["endpoints"][0]
    assert (values["name"], values["state"]) == ("gpu1", "down")


def test_an_earlier_timeline_makes_room_at_the_start(tmp_path: Path) -> None:
    """Totals of two runs in one file would be no series."""
    file = tmp_path / "timeline.jsonl"
    file.write_bytes(EARLIER)

    timeline = make_timeline(file)

    assert file.read_bytes() == b""
    timeline.tick()
    timeline.close()
    assert file.read_bytes().startswith(b'{"t":0.0,"time":"2026-')


def test_what_it_wrote_itself_it_takes_for_a_timeline(tmp_path: Path) -> None:
    """The same command can be run again."""
    file = tmp_path / "timeline.jsonl"
    first = make_timeline(file, busy_counters())
    first.tick()
    first.close()

    make_timeline(file).close()

    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    "content", [b'{"key":"9f86d081884c7d65","line":1}\n', b'{"t":"a prompt"}\n', b"\n", b"\x1f\x8b"]
)
def test_a_file_with_anything_else_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    """Prompts and answers named by mistake are not lost, nor do they stay locked."""
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)

    with pytest.raises(OutputBlockedError, match=r"^--timeline .*prompts.jsonl: is not a timeline: name another"):
        make_timeline(file)

    assert file.read_bytes() == content
    with file.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    """Be it by another run or as another output of this one."""
    file = tmp_path / "timeline.jsonl"
    file.write_bytes(EARLIER)

    with file.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(
            OutputBlockedError, match=r"^--timeline .* another output of this one .*: name another file"
        ):
            make_timeline(file)

    assert file.read_bytes() == EARLIER


def test_a_closed_timeline_lets_go_of_its_file(tmp_path: Path) -> None:
    """The next run can have it, and closing again or ticking late does no harm."""
    file = tmp_path / "timeline.jsonl"
    timeline = make_timeline(file)

    timeline.close()
    timeline.close()
    timeline.tick()

    assert file.read_bytes() == b""
    make_timeline(file).close()


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """Like the other outputs."""
    file = tmp_path / "timeline.jsonl"

    make_timeline(file).close()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("make_name", "said"),
    [
        (lambda at: f"{at}/no/where.jsonl", "its directory does not exist: create it or name another file"),
        (lambda at: f"{at}/file/below.jsonl", "its directory does not exist: create it or name another file"),
        (lambda at: f"{at}", "is a directory: name a file in it"),
        (lambda at: f"{at}/pipe", "cannot be written to: No such device or address: name another file"),
        (lambda at: f"{at}/{'x' * 300}", "cannot be written to: File name too long: name another file"),
        (lambda at: f"{at}/a\0b", "is not a file name: embedded null byte: name another file"),
        (lambda at: "", "its directory does not exist: create it or name another file"),
    ],
)
def test_a_file_that_cannot_be_opened_stops_the_run_before_it_starts(
    tmp_path: Path, make_name: Callable[[Path], str], said: str
) -> None:
    """One sentence with the flag and the fix; a pipe that nobody reads is not waited for."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OutputBlockedError) as caught:
        make_timeline(make_name(tmp_path))

    assert str(caught.value).startswith("--timeline ")
    assert str(caught.value).endswith(f": {said}")
    assert caught.value.exit_code == ExitCode.OUTPUT_BLOCKED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """With what to do about it."""
    file = tmp_path / "timeline.jsonl"
    file.touch(0o400)

    with pytest.raises(OutputBlockedError, match="permission denied: allow it or name another file"):
        make_timeline(file)


@needs_full_device
def test_a_disk_that_fails_ends_the_timeline_and_not_the_run() -> None:
    """The ticks that follow do nothing, and the reason stays to be told."""
    timeline = make_timeline("/dev/full")
    assert timeline.failure is None

    timeline.tick()
    first = timeline.failure
    timeline.tick()
    timeline.close()

    assert first == timeline.failure == "--timeline /dev/full: ended early: No space left on device"


def test_a_pipe_whose_reader_goes_ends_the_timeline(tmp_path: Path) -> None:
    """What it read until then is whole."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    timeline = make_timeline(tmp_path / "pipe")

    timeline.tick()
    seen = os.read(reader, 65536)
    os.close(reader)
    timeline.tick()

    assert orjson.loads(seen)["t"] == 0
    assert timeline.failure is not None
    assert timeline.failure.endswith("pipe: ended early: Broken pipe")


def test_a_reader_that_does_not_keep_up_never_holds_up_the_run(tmp_path: Path) -> None:
    """A full pipe would stop the event loop, and with it every request."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    timeline = make_timeline(tmp_path / "pipe", busy_counters(50))

    for _ in range(1000):
        timeline.tick()
    os.close(reader)

    assert timeline.failure is not None
    assert "ended early" in timeline.failure


def test_a_disk_that_fails_only_at_the_end_is_told_too(tmp_path: Path) -> None:
    """Network file systems report some errors when a file is closed."""
    file = tmp_path / "timeline.jsonl"
    timeline = make_timeline(file)
    opened = [fd for fd in os.listdir("/dev/fd") if os.path.realpath(f"/dev/fd/{fd}") == str(file)]

    os.close(int(opened[0]))
    timeline.close()

    assert timeline.failure == f"--timeline {file}: ended early: Bad file descriptor"
