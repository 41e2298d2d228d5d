"""Which display is chosen, what the plain one writes, and how it is driven."""

import asyncio
import io
import subprocess
import sys
from datetime import datetime

import pytest

from llmblast.watching.bar import BarDisplay
from llmblast.watching.counters import Counters
from llmblast.watching.display import NoDisplay
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.progress import Mode, PlainDisplay, drive, make_display
from llmblast.watching.rates import Snapshot, TotalLines
from llmblast.watching.status_line import status_line
from tests.watching.watching_helpers import FakeClock, endpoint


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Scripted:
    """A display that ticks without waiting and fails or ends where the test says so."""

    interval_s = 0.0

    def __init__(self, fails_at: str = "") -> None:
        self.calls: list[str] = []
        self.fails_at = fails_at
        self.ticked = asyncio.Event()

    def start(self) -> None:
        self._called("start")

    def tick(self) -> None:
        self._called("tick")
        self.ticked.set()

    def stop(self) -> None:
        self._called("stop")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise OSError("the terminal has gone")


@pytest.mark.parametrize(
    ("mode", "stream", "environ", "expected"),
    [
        ("auto", Terminal(), {"TERM": "xterm"}, BarDisplay),
        ("auto", Terminal(), {"TERM": "dumb"}, PlainDisplay),
        ("auto", Terminal(), {"TERM": "xterm", "CI": "true"}, PlainDisplay),
        ("auto", io.StringIO(), {"TERM": "xterm"}, PlainDisplay),
        ("bar", io.StringIO(), {}, BarDisplay),
        ("plain", Terminal(), {"TERM": "xterm"}, PlainDisplay),
        ("none", Terminal(), {"TERM": "xterm"}, NoDisplay),
    ],
)
def test_the_display_suits_who_looks_on(
    mode: Mode, stream: io.StringIO, environ: dict[str, str], expected: type
) -> None:
    """A bar for a person at a terminal, plain lines for logs, and what was asked for where somebody asked."""
    display = make_display(mode, Counters(), LimitsView(), FakeClock(), stream, environ=environ)

    assert type(display) is expected


@pytest.mark.parametrize("mode", ["auto", "bar", "plain"])
def test_quiet_shows_nothing_whatever_the_mode(mode: Mode) -> None:
    """--quiet wins."""
    display = make_display(mode, Counters(), LimitsView(), FakeClock(), Terminal(), quiet=True, environ={})

    assert isinstance(display, NoDisplay)


def test_the_plain_line_says_all_that_a_log_needs() -> None:
    """One line, with the estimate marked as such."""
    counters = Counters(in_flight=256, retries=3, failed=1, endpoints=[endpoint("a", tokens=(1, 0))])
    snapshot = Snapshot(10.0, 1234, TotalLines(10_000, False), 123.4, 120.0, 45_000.0, 71.0)

    line = status_line(snapshot, counters, LimitsView(tokens_per_minute_limit=200_000))

    assert line == (
        "00:10  1,234/~10,000 (12 %)  123.4/s  tokens 45k/min of 200k"
        "  in flight 256  retries 3  429s 0  errors 1  ETA 01:11"
    )


def test_what_is_not_known_is_left_out_of_the_plain_line() -> None:
    """A pipe has no size, a mock may report no tokens."""
    line = status_line(Snapshot(10.0, 7, None, 1.0, 1.0, 0.0, None), Counters(), LimitsView())

    assert line == "00:10  7 done  1.00/s  in flight 0  retries 0  429s 0  errors 0"


def test_endpoints_in_trouble_are_named_at_the_end_of_the_plain_line() -> None:
    """A log must tell when and why one of them dropped out."""
    endpoints = [endpoint("fine"), *(endpoint(f"gpu{n}", state="disabled: 401\x1b[2J") for n in range(5))]

    line = status_line(Snapshot(0.0, 0, None, 0.0, 0.0, 0.0, None), Counters(endpoints=endpoints), LimitsView())

    assert line.endswith("gpu0: disabled: 401  gpu1: disabled: 401  gpu2: disabled: 401  and 2 more")
    assert "fine" not in line


def plain_lines(clock: FakeClock, counters: Counters, until_s: float) -> list[str]:
    """What the plain display writes in a run that sends 50 requests a second."""
    stream, start_s = io.StringIO(), clock.now
    display = make_display("plain", counters, LimitsView(), clock, stream, wall_clock=lambda: 1_790_000_000 + clock())
    display.start()
    while clock.now - start_s < until_s:
        clock.advance(0.25)
        counters.sent = round(50 * (clock.now - start_s))
        display.tick()
    display.stop()
    return stream.getvalue().splitlines()


def test_plain_lines_begin_after_two_seconds_and_get_rarer() -> None:
    """The first one says that all is well, and a night fills no more than some pages."""
    lines = plain_lines(FakeClock(), Counters(), 8000)

    times = [line.split("  ")[1] for line in lines]
    assert times[:9] == ["00:02", "00:10", "00:20", "00:30", "00:40", "00:50", "01:00", "01:30", "02:00"]
    assert times[times.index("10:00") :][:3] == ["10:00", "11:00", "12:00"]
    assert times[times.index("1:00:00") :][:3] == ["1:00:00", "1:05:00", "1:10:00"]
    assert "  50.0/s  " in lines[1]


def test_plain_lines_have_the_wall_clocks_date_and_time() -> None:
    """A log is read together with others."""
    clock = FakeClock()

    line = plain_lines(clock, Counters(), 2)[0]

    moment = datetime.fromisoformat(line.split("  ")[0])
    assert moment.timestamp() == 1_790_000_000 + clock.now
    assert moment.tzinfo is not None


def test_a_run_of_less_than_two_seconds_leaves_no_line() -> None:
    """Its summary says it all."""
    assert plain_lines(FakeClock(), Counters(), 1.75) == []


def test_lines_are_written_when_ticks_come_late() -> None:
    """One for all that were missed."""
    clock, stream = FakeClock(), io.StringIO()
    display = make_display("plain", Counters(), LimitsView(), clock, stream)

    for seconds in (35, 1, 4, 1):
        clock.advance(seconds)
        display.tick()

    assert [line.split("  ")[1] for line in stream.getvalue().splitlines()] == ["00:35", "00:40"]


def test_a_quota_that_is_used_up_is_told_in_the_plain_line() -> None:
    """Else a run that waits for hours looks like one that hangs."""
    snapshot = Snapshot(10.0, 7, None, 1.0, 1.0, 0.0, None, "--rpd is used up until 12:00")

    line = status_line(snapshot, Counters(), LimitsView())

    assert line == "00:10  7 done  1.00/s  in flight 0  retries 0  429s 0  errors 0  --rpd is used up until 12:00"


def test_plain_progress_and_the_summary_do_not_import_rich() -> None:
    """Start-up time counts in a pipeline."""
    program = (
        "import io, sys, time\n"
        "from llmblast.watching import progress, summary\n"
        "from llmblast.watching.counters import Counters\n"
        "view = progress.LimitsView()\n"
        "progress.make_display('plain', Counters(), view, time.monotonic, io.StringIO()).tick()\n"
        "summary.Summary(Counters(), 1.0, view, 'finished').as_text()\n"
        "sys.exit('rich' in sys.modules)\n"
    )

    finished = subprocess.run([sys.executable, "-c", program], check=False)

    assert finished.returncode == 0


async def test_a_driven_display_starts_ticks_and_stops_when_it_is_cancelled() -> None:
    """The job needs one task and nothing else."""
    display = Scripted()
    task = asyncio.create_task(drive(display))
    await display.ticked.wait()

    task.cancel()
    await asyncio.wait([task])

    assert display.calls[:2] == ["start", "tick"]
    assert display.calls[-1] == "stop"
    assert display.calls.count("stop") == 1


@pytest.mark.parametrize("fails_at", ["start", "tick"])
async def test_a_display_whose_terminal_has_gone_ends_quietly_and_is_stopped(fails_at: str) -> None:
    """A run of hours outlives the terminal that it was started from."""
    display = Scripted(fails_at)

    await drive(display)

    assert display.calls[-2:] == [fails_at, "stop"]


async def test_a_display_that_wants_no_ticks_is_done_at_once() -> None:
    """Nothing wakes up a quiet run."""
    display = make_display("none", Counters(), LimitsView(), FakeClock(), io.StringIO())
    display.tick()

    await drive(display)

    assert display.interval_s is None
