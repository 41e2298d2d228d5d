"""Run llmblast and kill it at a note of the batch journal: `batch_driver.py before|after NUMBER run ARGUMENTS...`.

Between two notes there is one step: the end before a note comes after the step before it, the end after a note before
the step that it announces.
"""

import os
import signal
import sys
from collections.abc import Mapping

from llmblast.job.batch_journal import BatchJournal


def kill_at(moment: str, number: int) -> None:
    """Kill this process before or after that note is written."""
    append = BatchJournal._append
    count = 0

    def append_and_die(journal: BatchJournal, note: Mapping[str, object]) -> None:
        nonlocal count
        count += 1
        if count == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        append(journal, note)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    BatchJournal._append = append_and_die  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    kill_at(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["llmblast", *sys.argv[3:]]
    from llmblast.cli import main

    main()
