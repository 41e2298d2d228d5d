"""Batch folders: whether an output has one, and what forbids batches, known before anything is opened or imported."""

import os
from os.path import isdir, isfile, join
from typing import Final

from llmblast.errors import OutputBlockedError, UsageError
from llmblast.pipes import is_pipe
from llmblast.settings import Settings

SUFFIX: Final = ".batches"
JOURNAL: Final = "journal.jsonl"


def folder_of(save: str) -> str:
    """Return the folder of the batches of an output."""
    return f"{save}{SUFFIX}"


def has_batches(save: str) -> bool:
    """Return whether runs with this output have sent batches."""
    return not is_pipe(save) and isfile(join(folder_of(save), JOURNAL))


def check_batch_settings(settings: Settings) -> None:
    """Raise UsageError where lines are to go by batch and cannot."""
    if settings.detach and not settings.sends_batches:
        raise UsageError("--detach: has no effect without batches: add --defer batch, or leave --detach out")
    if not settings.sends_batches:
        return
    if is_pipe(settings.save):
        raise UsageError(
            "--defer batch: needs a file of answers, beside which it notes which batches were started: "
            "name one with --save"
        )
    if settings.repeat > 1:
        raise UsageError("--repeat: sends each repeat directly: leave --repeat or --defer batch out")


def discard_batches(save: str) -> None:
    """Remove the folder of an output that starts over.

    Raises OutputBlockedError while a provider may work on one of its batches.
    """
    if not isdir(folder_of(save)):
        return
    from llmblast.job.batch_journal import BatchJournal  # noqa: PLC0415 -- most outputs have none

    journal = BatchJournal(folder_of(save))
    journal.load()
    under_way = [entry for entry in journal.open_entries if entry.is_in_progress]
    if under_way:
        count = "1 batch is" if len(under_way) == 1 else f"{len(under_way):,} batches are"
        raise OutputBlockedError(
            f"{save}: {count} under way for it: collect the answers without --overwrite, or end them first with "
            f"llmblast batches {save} --cancel"
        )
    for name in os.listdir(journal.folder):
        os.unlink(join(journal.folder, name))
    os.rmdir(journal.folder)
