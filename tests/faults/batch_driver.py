"""Run llmblast and let something happen at a note of the batch journal: `batch_driver.py MOMENT NUMBER run ...`.

The moment is `before` or `after` for a kill, or the name of a signal for one after the note. With `full`, that note and
all behind it find a full disk. Between two notes there is one step: the end before a note comes after the step before
it, the end after a note before the step that it announces.
"""

import errno
import os
import signal
import sys
from collections.abc import Mapping

from llmblast.job.batch_journal import BatchJournal


def kill_at(moment: str, number: int) -> None:
    """Kill this process before or after that note is written, or send it a signal after it."""
    append = BatchJournal._append
    count = 0

    def append_and_die(journal: BatchJournal, note: Mapping[str, object]) -> None:
        nonlocal count
        count += 1
        if count == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        append(journal, note)
        if count == number and moment != "before":
            os.kill(os.getpid(), signal.SIGKILL if moment == "after" else signal.Signals[moment])

    BatchJournal._append = append_and_die  # type: ignore[assignment,method-assign]


def fill_disk_at(number: int) -> None:
    """Write half of that note, and nothing to the journal from then on."""
    write, count = os.write, 0

    def fail(descriptor: int, data: bytes) -> int:
        nonlocal count
        if not os.readlink(f"/proc/self/fd/{descriptor}").endswith("journal.jsonl"):
            return write(descriptor, data)
        count += 1
        if count < number:
            return write(descriptor, data)
        if count == number:
            return write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.write = fail  # type: ignore[assignment]  # the journal writes bytes


if __name__ == "__main__":
    if sys.argv[1] == "full":
        fill_disk_at(int(sys.argv[2]))
    else:
        kill_at(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["llmblast", *sys.argv[3:]]
    from llmblast.cli import main

    main()
