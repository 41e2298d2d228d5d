"""Which display is chosen, what the plain one writes, and how it is driven."""

import asyncio
import io
import subprocess
import sys

import pytest

from llmblast.watching.bar import BarDisplay
from llmblast.watching.counters import Counters
from llmblast.watching.progress import (
    LimitsView,
    Mode,
    NoDisplay,
    PlainDisplay,
    drive,
    make_display,
    status_line,
)
from llmblast.watching.rates import Snapshot, TotalLines
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
    counters = Counters(in_flight=256, retries=3, failed=1, prompt_tokens=1)
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


def test_the_plain_display_writes_one_line_a_tick_and_none_before() -> None:
    """Runs of less than ten seconds leave no line in the log."""
    clock, stream, counters = FakeClock(), io.StringIO(), Counters()
    display = make_display("plain", counters, LimitsView(), clock, stream)

    display.start()
    before = stream.getvalue()
    for _ in range(2):
        clock.advance(10)
        counters.sent += 500
        display.tick()
    display.stop()

    lines = stream.getvalue().splitlines()
    assert before == ""
    assert [line.split("  ")[0] for line in lines] == ["00:10", "00:20"]
    assert "  50.0/s  " in lines[1]


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
