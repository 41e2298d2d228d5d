"""The verdict speaks of the lines of this input: records of other lines in the errors file count for nothing."""

from pathlib import Path

import pytest

from tests.conftest import RunLlmblast, records

GOOD = '{"input":"2+2?"}\n'


def test_a_line_that_was_mended_has_not_failed(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Its old record stays, and one sentence says so."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(GOOD + '{"input":}\n')
    before = llmblast("run", "prompts.jsonl", "-u", "mock:")
    prompts.write_text(GOOD + '{"input":"3+3?"}\n')

    mended = llmblast("run", "prompts.jsonl", "-u", "mock:")

    assert (before.returncode, mended.returncode) == (3, 0)
    assert (
        "finished: every line has its answer; errors.jsonl also has 1 record of a line that is not in this input"
        in (mended.stderr)
    )
    assert "2 read, 1 skipped (finished earlier), 1 answered, 0 failed" in mended.stderr
    assert len(records(tmp_path / "errors.jsonl")) == 1


@pytest.mark.parametrize("mode", ["none", "transient"])
def test_a_line_that_failed_earlier_has_failed(tmp_path: Path, llmblast: RunLlmblast, mode: str) -> None:
    """It is in this input, so the input is not done."""
    (tmp_path / "prompts.jsonl").write_text(GOOD + '{"input":}\n')
    llmblast("run", "prompts.jsonl", "-u", "mock:")

    again = llmblast("run", "prompts.jsonl", "-u", "mock:", "--retry-errors", mode)

    assert again.returncode == 3
    assert "finished: some lines have no answer, see errors.jsonl\n" in again.stderr


def test_an_input_of_its_own_is_judged_alone(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Another input left its errors in the same file; this one has one, too."""
    (tmp_path / "a.jsonl").write_text("bad\nworse\n")
    (tmp_path / "b.jsonl").write_text(GOOD + "worst\n")
    llmblast("run", "a.jsonl", "-u", "mock:")

    done = llmblast("run", "b.jsonl", "-u", "mock:")

    assert done.returncode == 3
    assert "see errors.jsonl; errors.jsonl also has 2 records of lines that are not in this input" in done.stderr


def test_the_first_lines_are_judged_alone(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """`--limit`: what failed behind them is of no account."""
    (tmp_path / "prompts.jsonl").write_text(GOOD * 3 + "bad\n")
    whole = llmblast("run", "prompts.jsonl", "-u", "mock:")

    first = llmblast("run", "prompts.jsonl", "-u", "mock:", "--limit", "3")

    assert (whole.returncode, first.returncode) == (3, 0)
    assert "1 record of a line that is not in the first 3 lines of this input" in first.stderr


def test_trying_all_again_leaves_nothing_of_others(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """`--retry-errors all` starts the errors anew, as before."""
    (tmp_path / "prompts.jsonl").write_text("bad\n")
    llmblast("run", "prompts.jsonl", "-u", "mock:")
    (tmp_path / "prompts.jsonl").write_text(GOOD)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--retry-errors", "all")

    assert done.returncode == 0
    assert "finished: every line has its answer\n" in done.stderr
    assert records(tmp_path / "errors.jsonl") == []
