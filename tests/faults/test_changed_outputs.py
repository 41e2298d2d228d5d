"""Outputs that another process truncates, replaces or writes to while a run is on: the run says so and ends with 74,
and the next one leaves every line with its record.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.processes import let_run, start_run

LINES = 60


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_to(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"a note of mine\n")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").rename(path)


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [truncate, cut_in_half, write_to, replace, delete])
@pytest.mark.parametrize("name", ["save.jsonl", "errors.jsonl"])
def test_a_changed_output_is_never_finished(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    name: str,
    change: Callable[[Path], None],
) -> None:
    """Nothing more is sent once it is noticed; the other TMPDIR of the next run does not matter."""
    refused = ScriptedReply(413, b"{}", delay_s=0.05)
    is_refused = name == "errors.jsonl"
    server = start_mock("latency=0.05", script=lambda index, body: refused if is_refused else None)
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    (tmp_path / "spools").mkdir()
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "2", "--spool", "spools")
    while not (tmp_path / name).exists() or (tmp_path / name).stat().st_size == 0:
        assert process.poll() is None
        let_run(process, 0.005)

    change(tmp_path / name)
    _, stderr = process.communicate(timeout=60)
    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--retry-errors", "none")

    assert process.returncode == 74, stderr
    assert f"{name}: " in stderr
    assert "during the run" in stderr
    assert "un the same command again" in stderr
    assert done.returncode == (3 if is_refused else 0), done.stderr
    assert sorted(record["line"] for record in records(tmp_path / name)) == list(range(1, LINES + 1))
    assert list((tmp_path / "spools").iterdir()) == []


def test_a_truncation_after_the_last_answer_is_noticed(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """The run waits for one line that never comes: all answers are written and synced by then."""
    server = start_mock()
    reading, writing = os.pipe()
    process = start_run(tmp_path, environment, "-", "-u", server.url, stdin=reading)
    os.close(reading)
    os.write(writing, b'{"input":"2+2?"}\n')
    while not (tmp_path / "save.jsonl").exists() or (tmp_path / "save.jsonl").stat().st_size == 0:
        assert process.poll() is None
        let_run(process, 0.005)
    truncate(tmp_path / "save.jsonl")

    os.close(writing)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 74, stderr
    assert "every line has its answer" not in stderr


def test_starting_anew_leaves_a_foreign_file_alone(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A slip such as `-o prompts.csv --overwrite` costs a sentence, not the file; `--force` is meant."""
    write_prompts(tmp_path / "prompts.jsonl", 1)
    (tmp_path / "table.csv").write_text("id,prompt\n")
    arguments = ("run", "prompts.jsonl", "-u", "mock:", "-o", "table.csv", "--overwrite")

    stopped = llmblast(*arguments)
    before = (tmp_path / "table.csv").read_text()
    forced = llmblast(*arguments, "--force")

    assert stopped.returncode == 73
    assert "or empty this one with --overwrite --force" in stopped.stderr
    assert before == "id,prompt\n"
    assert forced.returncode == 0
    assert len(records(tmp_path / "table.csv")) == 1


def test_a_spool_is_found_from_a_full_disk(tmp_path: Path, environment: dict[str, str], llmblast: RunLlmblast) -> None:
    """The next run has neither the same `--spool` nor the same TMPDIR; a real file system without room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        write_prompts(tmp_path / "prompts.jsonl", 1000)
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
        arguments = ("run", "prompts.jsonl", "-u", "mock:", "-o", "disk/save.jsonl")
        full = llmblast(*arguments, "--disk-wait", "0", "--spool", "first")
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)

        done = llmblast(*arguments, TMPDIR=str(tmp_path / "second"))

        assert (full.returncode, done.returncode) == (74, 0), done.stderr
        assert "of an earlier run were added from" in done.stderr
        assert list((tmp_path / "first").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
