"""Runs through a batch API that end by kill -9: nothing is lost, no batch is started twice, nothing is paid twice."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.conftest import ROOT, RunLlmblast, StartMock
from tests.faults.batch_checker import complaints, write_batch_lines
from tests.processes import let_run, start_run

LINES = 300
KILLS = 3
MAX_LOST = 256 * 3
"""Direct requests that a killed run had in flight, or whose answers were on their way to the disk."""
NOTES = 8
"""In the journal of a run with one batch: from packed to done."""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(1, NOTES + 1))
def test_a_run_killed_at_a_note_of_its_journal_goes_on(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, moment: str, number: int
) -> None:
    """Each gap between two notes: what was announced may have been done or not."""
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0&batch_delay=0.3&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", LINES // 3, copies=3)
    arguments = ("run", "prompts.jsonl", "-u", server.url, "--defer", "batch", "--changed-settings", "ok")
    driver = [sys.executable, str(ROOT / "tests/faults/batch_driver.py"), moment, str(number), *arguments]
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(driver, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr

    done = llmblast(*arguments)

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, ledger) == []


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 100))])
def test_a_run_killed_at_random_moments_goes_on(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, seed: int
) -> None:
    """Three times, with two thousand lines of which a part stands three times in the file, and unfinished ones."""
    random = Random(seed)
    ledger = tmp_path / "ledger.jsonl"
    share = random.choice(("", "&batch_expire=0.3", "&batch_fail=0.1"))
    server = start_mock(f"latency=0.01&batch_delay=0.5{share}&ledger={ledger}")
    write_batch_lines(tmp_path / "prompts.jsonl", 700, copies=3)
    arguments = ("prompts.jsonl", "-u", server.url, "--defer", "batch")
    for _ in range(KILLS):
        process = start_run(tmp_path, environment, *arguments)
        let_run(process, random.uniform(0.3, 3.0))
        process.kill()
        process.communicate()

    done = llmblast("run", *arguments)

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, ledger, lost=KILLS * MAX_LOST) == []
