"""Which progress suits where the answers go: with real files, pipes and terminals."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmblast.cli.progress_mode import progress_mode
from llmblast.settings import Settings
from llmblast.watching import Mode


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[dict[str, int]]:
    """File descriptors of all kinds that a standard output may be."""
    with ExitStack() as stack:
        descriptors = {
            "file": os.open(tmp_path / "answers.jsonl", os.O_WRONLY | os.O_CREAT),
            "null": os.open(os.devnull, os.O_WRONLY),
        }
        reader, descriptors["pipe"] = os.pipe()
        master, descriptors["terminal"] = os.openpty()
        for descriptor in (*descriptors.values(), reader, master):
            stack.callback(os.close, descriptor)
        yield {**descriptors, "closed": 10_000}


@pytest.mark.parametrize(
    ("stdout", "expected"),
    [("file", "auto"), ("null", "auto"), ("closed", "auto"), ("pipe", "plain"), ("terminal", "none")],
)
def test_answers_on_standard_output_are_not_torn_by_a_bar(outputs: dict[str, int], stdout: str, expected: Mode) -> None:
    """What reads a pipe may print to the same terminal; on the terminal itself the answers are the progress."""
    settings = Settings(save="-", errors="errors.jsonl")

    assert progress_mode(settings, Terminal(), outputs[stdout]) == expected


@pytest.mark.parametrize("stdout", ["file", "null", "closed", "pipe", "terminal"])
def test_answers_in_a_file_leave_the_terminal_to_the_bar(outputs: dict[str, int], stdout: str) -> None:
    """Wherever standard output goes."""
    assert progress_mode(Settings(save="save.jsonl"), Terminal(), outputs[stdout]) == "auto"


@pytest.mark.parametrize("stdout", ["file", "pipe", "terminal"])
def test_a_log_gets_lines_wherever_the_answers_go(outputs: dict[str, int], stdout: str) -> None:
    """With `2> log`, say."""
    assert progress_mode(Settings(save="-", errors="errors.jsonl"), io.StringIO(), outputs[stdout]) == "plain"


def test_an_output_that_names_a_pipe_or_a_terminal_counts_as_one(tmp_path: Path, outputs: dict[str, int]) -> None:
    """`-o >(jq .)`, `-o /dev/tty`, `-e /dev/stderr`."""
    os.mkfifo(tmp_path / "fifo")
    terminal = os.ttyname(outputs["terminal"])

    assert progress_mode(Settings(save=str(tmp_path / "fifo")), Terminal()) == "plain"
    assert progress_mode(Settings(save=terminal, errors="errors.jsonl"), Terminal()) == "none"
    assert progress_mode(Settings(errors=terminal), Terminal()) == "none"


@pytest.mark.parametrize("asked", ["bar", "plain", "none"])
def test_what_is_asked_for_is_shown(outputs: dict[str, int], asked: Mode) -> None:
    """Whatever it tears."""
    settings = Settings(save="-", errors="errors.jsonl", progress=asked)

    assert progress_mode(settings, Terminal(), outputs["terminal"]) == asked


def test_verbose_lines_are_not_torn_by_a_bar() -> None:
    """They come at any time."""
    assert progress_mode(Settings(verbose=True), Terminal()) == "plain"
