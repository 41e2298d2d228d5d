"""Batch folders: whether an output has one, and what forbids batches, known before anything is opened or imported."""

import os
from os.path import isdir, isfile, join
from typing import Final

from llmblast.errors import UsageError
from llmblast.pipes import is_pipe
from llmblast.settings import Settings

SUFFIX: Final = ".batches"
JOURNAL: Final = "journal.jsonl"
LINES: Final = ".lines"
"""Suffix of the file with the lines of a batch, which is there until all of them have a record."""


def folder_of(save: str) -> str:
    """Return the folder of the batches of an output."""
    return f"{save}{SUFFIX}"


def has_batches(save: str) -> bool:
    """Return whether runs with this output have sent batches."""
    return not is_pipe(save) and isfile(join(folder_of(save), JOURNAL))


def has_open_batches(save: str) -> bool:
    """Return whether batches have lines of this output that have no record yet. Blocks."""
    folder = folder_of(save)
    return not is_pipe(save) and isdir(folder) and any(name.endswith(LINES) for name in os.listdir(folder))


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
