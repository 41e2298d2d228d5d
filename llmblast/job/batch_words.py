"""Batch words: what a person reads about batches."""

from collections.abc import Mapping, Sequence
from typing import Final

from llmblast.batching.api import BatchEnd
from llmblast.job.batch_journal import BEFORE_START, BatchEntry, Step

_ENDS: Final = {
    BatchEnd.COMPLETED.value: "ended without a valid answer",
    BatchEnd.EXPIRED.value: "expired without an answer",
    BatchEnd.CANCELLED.value: "was cancelled without an answer",
    BatchEnd.FAILED.value: "failed without an answer",
}


def words_of_rest(entry: BatchEntry, lines: int) -> str:
    """Return that so many lines of an ended batch are sent directly, and why."""
    are_sent = "it is sent directly" if lines == 1 else "they are sent directly"
    count = f"{lines:,} of {'1 line' if entry.lines == 1 else f'{entry.lines:,} lines'}"
    if (how := _ENDS.get(entry.end or "")) is not None:
        return f"endpoint {entry.endpoint}: batch {entry.batch_id} {how} to {count}: {are_sent}"
    return f"{entry.end}; {'1 line is' if lines == 1 else f'{lines:,} lines are'} sent directly"


def words_of_failure(folder: str, error: OSError) -> str:
    """Return that the folder of the batches takes nothing more, and what to do."""
    return f"{folder}: cannot be written: {error.strerror}: solve that and run it again"


def words_of_batches(entries: Sequence[BatchEntry]) -> str:
    """Return how many batches are at their providers."""
    return "1 batch at the provider" if len(entries) == 1 else f"{len(entries):,} batches at the providers"


def words_at_stop(entries: Sequence[BatchEntry], lines: Mapping[str, int]) -> str:
    """Return, for a run that was stopped, what becomes of its batches. `lines` has, by their marks, how many lines of
    each have no record yet.
    """
    going = [entry for entry in entries if entry.is_in_progress]
    ended = [entry for entry in entries if entry.step is Step.ENDED and entry.batch_id and lines[entry.mark]]
    waiting = [entry for entry in entries if entry.step in BEFORE_START]
    words = ""
    if going:
        go = "goes" if len(going) == 1 else "go"
        words += f"; {words_of_batches(going)} with {_lines_of(going, lines)} {go} on: the same command collects the "
        words += "answers"
    if ended:
        have, count = ("has", "1 batch") if len(ended) == 1 else ("have", f"{len(ended):,} batches")
        words += f"; {count} with {_lines_of(ended, lines)} left to collect {have} ended: the same command collects "
        words += "the rest"
    if waiting:
        are, count = ("is", "1 batch") if len(waiting) == 1 else ("are", f"{len(waiting):,} batches")
        words += f"; {count} with {_lines_of(waiting, lines)} {are} not started yet: the same command goes on"
    return words


def _lines_of(entries: Sequence[BatchEntry], lines: Mapping[str, int]) -> str:
    count = sum(lines[entry.mark] for entry in entries)
    return "1 line" if count == 1 else f"{count:,} lines"
