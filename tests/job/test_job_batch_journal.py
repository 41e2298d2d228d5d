"""The journal of batches on a disk that is full for a while."""

import errno
import os
from pathlib import Path

import pytest

from llmblast.job.batch_journal import BatchEntry, BatchJournal, Step


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_note_that_found_no_room_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A note of another batch behind half of one would damage the journal."""
    journal = BatchJournal(str(tmp_path))
    entries = [BatchEntry(f"lb{number}", "e", "chat/completions", "m", 1, 9) for number in range(2)]
    for entry in entries:
        Path(journal.lines_path(entry)).touch()
        journal.add(entry)
    write = os.write

    def fail(descriptor: int, data: bytes = b"") -> int:
        if data and descriptor != full[-1]:
            full.append(descriptor)
            return write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    full = [-1]
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            journal.record(entries[0], Step.UPLOADING)
    journal.record(entries[1], Step.UPLOADING)

    again = BatchJournal(str(tmp_path))
    again.load()

    assert [entry.step for entry in again.entries.values()] == [Step.PACKED, Step.UPLOADING]
    assert [entry.step for entry in entries] == [Step.PACKED, Step.UPLOADING]
