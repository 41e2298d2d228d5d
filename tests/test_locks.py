"""The look at an output's lock: it tells of a run that writes to it, and leaves no trace."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from llmblast.errors import OutputBlockedError
from llmblast.locks import check_unlocked
from llmblast.writing import OutputFile

RECORD = b'{"key":"00000000000000aa","line":1,"id":null,"response":"Yes."}\n'


@pytest.fixture
def save(tmp_path: Path) -> Path:
    path = tmp_path / "save.jsonl"
    path.write_bytes(RECORD)
    return path


def test_a_locked_file_is_told_as_by_whoever_opens_it(save: Path) -> None:
    """One sentence for one fault, even where we may not write."""
    save.chmod(0o400)
    with save.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(OutputBlockedError) as looked:
            check_unlocked(str(save), "--save")
        save.chmod(0o600)
        with pytest.raises(OutputBlockedError) as opened:
            OutputFile(str(save))

    assert str(looked.value) == str(opened.value)
    assert str(looked.value).startswith(f"{save}: another run is writing to it: ")


def test_two_looks_at_once_do_not_refuse_each_other(save: Path) -> None:
    """Else of two starts both might end."""
    with save.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)

        check_unlocked(str(save), "--save")


def test_a_look_refuses_nobody_who_takes_the_lock(save: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over in some microseconds: whoever wants the lock waits for that."""
    with save.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        monkeypatch.setattr("llmblast.locks.time.sleep", lambda seconds: fcntl.flock(other, fcntl.LOCK_UN))

        OutputFile(str(save), overwrite=True).close()


def test_a_look_leaves_the_file_as_it_was(save: Path) -> None:
    """Its bytes, its times and its lock; one that does not exist is not created."""
    os.utime(save, ns=(10**18, 10**18))
    before = save.stat()

    check_unlocked(str(save), "--save")
    check_unlocked(str(save.with_name("other.jsonl")), "--errors")

    assert (save.stat().st_mtime_ns, save.stat().st_ctime_ns, save.stat().st_mode) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_mode,
    )
    assert save.read_bytes() == RECORD
    assert os.listdir(save.parent) == ["save.jsonl"]
    OutputFile(str(save), overwrite=True).close()


def test_only_regular_files_are_opened_and_none_to_write(
    save: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe's reader would take us for its writer, a device may do anything."""
    os.mkfifo(tmp_path / "pipe")
    opened = []
    really_open = os.open

    def spy(path: str, flags: int, *more: Any) -> int:
        opened.append((path, flags & os.O_ACCMODE))
        return really_open(path, flags, *more)

    monkeypatch.setattr(os, "open", spy)
    for path in (str(tmp_path / "pipe"), os.devnull, str(tmp_path), "no\0name", "", str(save)):
        check_unlocked(path, "--save")

    assert opened == [(str(save), os.O_RDONLY)]
