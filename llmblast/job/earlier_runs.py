"""Earlier runs: find the completed keys without a change to the outputs, which a run would lock and repair."""

import os
from collections.abc import Iterator

from llmblast.errors import OutputBlockedError
from llmblast.reading import CompletedKeys
from llmblast.settings import Settings
from llmblast.writing import is_json, should_retry

_END_BYTES = 64 * 1024


def find_finished(settings: Settings) -> tuple[CompletedKeys, CompletedKeys]:
    """Return the keys of answered lines, and of failed lines that a run would not retry. Blocks.

    Raises OutputBlockedError for an output that cannot be read.
    """
    if settings.overwrite:
        return CompletedKeys([]), CompletedKeys([])
    answered = CompletedKeys.scan([settings.save] if os.path.isfile(settings.save) else [])
    for torn in _torn_ends(settings.save):
        answered.consume_record(torn)
    failed = CompletedKeys.of_records(
        record
        for record in _lines(settings.errors_path)
        if not should_retry(record, settings.retry_errors) and not answered.has_key_of(record)
    )
    return answered, failed


def _torn_ends(path: str) -> Iterator[bytes]:
    """Yield the last record of a file if a crash has torn it: a run removes the record and sends its line again."""
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _END_BYTES))
        end = file.read().rpartition(b"\n")[2]
    if end and not is_json(end):
        yield end


def _lines(path: str) -> Iterator[bytes]:
    if not os.path.isfile(path):
        return
    try:
        with open(path, "rb") as file:
            yield from file
    except OSError as error:
        raise OutputBlockedError(f"{path}: cannot be read: {error.strerror}: make it readable") from None
