"""Batch words: what a person reads about batches."""

from typing import Final

from llmblast.batching.api import BatchEnd
from llmblast.job.batch_journal import BatchEntry

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
