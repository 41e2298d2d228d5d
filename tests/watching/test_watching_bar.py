"""The live display, drawn by rich on consoles of known size and on a real pseudo-terminal."""

import asyncio
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from llmblast.watching.bar import BarDisplay, make_console
from llmblast.watching.counters import Counters
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.progress import drive
from llmblast.watching.time_left import Allowance
from tests.watching.watching_helpers import FakeClock, busy_counters, endpoint

LIMITS = LimitsView(tokens_per_minute_limit=200_000, requests_per_second_limit=200.0)


@pytest.fixture(autouse=True)
def _able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever terminal the tests run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def console_of(width: int, height: int = 30, color: bool = True) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        no_color=not color,
        markup=False,
        record=True,
    )


def screen(counters: Counters, console: Console, clock: FakeClock | None = None) -> list[str]:
    """What one tick shows, without colours."""
    display = BarDisplay(counters, LIMITS, clock or FakeClock(), console)
    console.print(*display.lines(), sep="\n")
    return console.export_text().splitlines()


def written(console: Console) -> str:
    """All that went to the terminal, control codes included."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "figure_lines"), [(12, 12), (40, 6), (80, 3), (120, 3), (200, 3)])
@pytest.mark.parametrize("color", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, figure_lines: int, color: bool) -> None:
    """A line that wraps leaves litter at every tick."""
    counters = busy_counters(15)
    counters.endpoints[1].state = "cooling down for another 12 s"
    counters.endpoints[2].name = "模型端点" * 20

    lines = BarDisplay(counters, LIMITS, FakeClock(), console_of(width, 40, color=color)).lines()

    assert max(line.cell_len for line in lines) <= width
    assert len(lines) == 1 + figure_lines + 1 + 12


def test_the_whole_run_is_told_in_figures() -> None:
    """What a person asks: how far, how fast against the limits, what waits, what went wrong, how long still."""
    clock = FakeClock()
    counters = Counters(lines_read=1000, bytes_read=1000, input_bytes=10_000, retries=11, rate_limited=12, failed=13)
    console = console_of(80)
    display = BarDisplay(counters, LIMITS, clock, console)
    clock.advance(4)
    counters.sent, counters.succeeded = 400, 387
    counters.endpoints = [endpoint("only", tokens=(3000, 0))]
    counters.in_flight, counters.queued = 256, 1024

    console.print(*display.lines(), sep="\n")

    text = " ".join(console.export_text().split())
    assert "400/~10,000 (4 %) ETA 01:36" in text
    assert "requests/s 100.0 tokens/min 45k in flight 256 retries 11" in text
    assert "limit 200.0 limit 200k queued 1,024 429s 12" in text
    assert "average 100.0 tokens 3k time 00:04 errors 13" in text


@pytest.mark.parametrize(
    ("width", "per_line"), [(30, 1), (50, 2), (60, 2), (68, 2), (69, 4), (80, 4), (100, 4), (120, 4)]
)
def test_cells_are_two_spaces_apart_at_any_width(width: int, per_line: int) -> None:
    """Glued together they cannot be told apart: narrow terminals get more lines."""
    counters = Counters(lines_read=1000, in_flight=25_600, retries=12_345, input_ended=True)

    lines = screen(counters, console_of(width))[1:]

    assert [len(re.findall(r" {2,}(?=[a-z4])", f"  {line}")) for line in lines] == [per_line] * (12 // per_line)
    assert max(map(len, lines)) <= width
    assert "in flight 25,600" in " ".join(" ".join(lines).split())


def test_a_cell_grows_with_its_figure() -> None:
    """A value never touches its label, nor the next cell."""
    counters = Counters(in_flight=123_456_789)

    lines = screen(counters, console_of(70))

    assert "in flight 123,456,789" in " ".join(" ".join(lines).split())
    assert len(lines) == 1 + 6


def test_there_is_no_bar_where_the_figures_need_the_line() -> None:
    """An ETA that is cut off would be another one."""
    counters = Counters(lines_read=1_000_000, succeeded=500_000, input_ended=True)

    line = screen(counters, console_of(45))[0]

    assert line == "500,000/1,000,000 (50 %)  ETA --:--"


@pytest.mark.parametrize(("color", "full"), [(True, 40), (False, 20)])
def test_the_bar_is_as_long_as_what_is_done(color: bool, full: int) -> None:
    """Without colours only what is done is drawn, and the figures stay where they are."""
    counters = Counters(lines_read=100, succeeded=50, input_ended=True)
    console = console_of(40 + len("  50/100 (50 %)  ETA --:--"), color=color)

    line = screen(counters, console)[0]

    assert sum(line.count(part) for part in "━╸╺") == full
    assert line[40:] == "  50/100 (50 %)  ETA --:--"


def test_a_run_without_limits_or_a_known_size_can_be_shown() -> None:
    """Standard input has no size."""
    console = console_of(80)
    display = BarDisplay(Counters(lines_read=7, succeeded=5), LimitsView(), FakeClock(), console)
    console.print(*display.lines(), sep="\n")

    lines = console.export_text().splitlines()

    assert "  5 done  ETA --:--" in lines[0]
    assert lines[2].split()[:4] == ["limit", "none", "limit", "none"]
    assert len(lines) == 4


@pytest.mark.parametrize(("height", "expected"), [(30, 17), (14, 13), (9, 8), (8, 4), (5, 4), (3, 2), (1, 1)])
def test_a_low_terminal_gets_fewer_rows(height: int, expected: int) -> None:
    """What is higher than the terminal cannot be removed again."""
    lines = screen(busy_counters(15), console_of(80, height))

    assert len(lines) == expected


def test_markup_in_an_endpoints_name_is_text() -> None:
    """Names from outside paint nothing."""
    counters = Counters(endpoints=[endpoint("[bold red]gpu[/]\x1b[2J", state="[link=http://x]down")])

    lines = screen(counters, console_of(120))

    assert lines[6].startswith("[bold red]gpu[/] ")
    assert lines[6].endswith("[link=http://x]down")


def test_what_is_written_to_stderr_meanwhile_appears_as_it_is() -> None:
    """A warning stands above the display, its markup is text, and afterwards stderr is what it was."""
    stream = io.StringIO()
    display = BarDisplay(busy_counters(), LIMITS, FakeClock(), make_console(stream))

    with contextlib.redirect_stderr(stream):
        display.start()
        sys.stderr.write("warning: [red]line 17[/red]\n")
        sys.stderr.write("no line end [red]yet[/red]")
        sys.stderr.flush()
        display.stop()
        stderr_afterwards = sys.stderr

    assert stderr_afterwards is stream
    assert "warning: [red]line 17[/red]\n" in stream.getvalue()
    assert "no line end [red]yet[/red]\n" in stream.getvalue()


def test_the_display_is_gone_at_the_end() -> None:
    """The last thing it does is to erase every one of its lines and to show the cursor again."""
    stream = io.StringIO()
    display = BarDisplay(busy_counters(), LIMITS, FakeClock(), make_console(stream))

    display.start()
    display.tick()
    display.stop()
    display.stop()

    after_the_last_frame = stream.getvalue().rsplit("endpoint-2", 1)[1]
    assert after_the_last_frame.count("\x1b[1A\x1b[2K") == 1 + 3 + 1 + 4
    assert "\x1b[?25h" in after_the_last_frame


def test_lines_that_wrapped_in_a_narrower_terminal_are_erased() -> None:
    """The terminal has wrapped the bar and three lines of figures: four lines more than were drawn."""
    console = console_of(80)
    display = BarDisplay(Counters(endpoints=[endpoint("gpu")]), LIMITS, FakeClock(), console)
    display.start()
    console.width = 60
    drawn_before = len(written(console))

    display.tick()
    display.tick()
    first, second = written(console)[drawn_before:].rsplit("requests/s", 1)
    display.stop()

    assert first.count("\x1b[1A") == (4 + 6) + 9
    assert second.count("\x1b[1A") == 0


def test_the_end_of_a_display_whose_lines_wrapped_is_clean() -> None:
    """Between the last tick and the end a person can make the window narrower too, and only then it is mended."""
    console = console_of(80)
    display = BarDisplay(Counters(endpoints=[endpoint("gpu")]), LIMITS, FakeClock(), console)
    display.start()
    console.width = 60
    drawn_before = len(written(console))

    display.stop()
    ups = written(console)[drawn_before:].count("\x1b[1A")
    display.stop()

    assert ups == 4 + 6 + 7
    assert written(console)[drawn_before:].count("\x1b[1A") == ups


@pytest.fixture
def hung_up_terminal() -> Iterator[io.TextIOWrapper]:
    """A terminal whose window was closed."""
    master, slave = os.openpty()
    os.close(master)
    stream = os.fdopen(slave, "w", encoding="utf-8")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


@pytest.fixture
def pipe_without_reader() -> Iterator[io.TextIOWrapper]:
    """A `2>&1 | less` that was left."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


@pytest.mark.parametrize("gone", ["hung_up_terminal", "pipe_without_reader"])
async def test_a_terminal_that_has_gone_ends_the_display_and_nothing_else(
    gone: str, request: pytest.FixtureRequest
) -> None:
    """Neither an exit nor a closed stdout: the run has answers to write."""
    stderr, stdout_before = sys.stderr, os.fstat(1)
    console = make_console(request.getfixturevalue(gone))

    await asyncio.wait_for(drive(BarDisplay(busy_counters(), LIMITS, FakeClock(), console)), 5)

    assert sys.stderr is stderr
    assert os.path.samestat(os.fstat(1), stdout_before)


def test_a_quota_that_is_used_up_has_a_line_below_the_figures() -> None:
    """Cut to the width, and without what a terminal would obey."""
    limits = LimitsView(allowance=lambda: Allowance(held_back="gpu\x1b[2J1 rpd is used up until 2026-11-29 04:18:31"))
    display = BarDisplay(Counters(endpoints=[endpoint("gpu1")]), limits, FakeClock(), console_of(80))

    lines = [line.plain for line in display.lines()]

    assert lines[4] == "gpu1 rpd is used up until 2026-11-29 04:18:31"
    assert lines[5] == ""
