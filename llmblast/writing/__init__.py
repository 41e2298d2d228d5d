"""Outcomes to files: records, batches, locks, recovery."""

from llmblast.writing.formats import FORMATS, OUR_NAMES, RecordFormat, render
from llmblast.writing.left_waiting import discard_waiting, take_in_waiting
from llmblast.writing.output_file import OutputFile
from llmblast.writing.retries import should_retry
from llmblast.writing.safe_json import is_json
from llmblast.writing.shared_file import SharedFile
from llmblast.writing.spool import Spool
from llmblast.writing.stream import Timing
from llmblast.writing.writer import Writer

__all__ = [
    "FORMATS",
    "OUR_NAMES",
    "OutputFile",
    "RecordFormat",
    "SharedFile",
    "Spool",
    "Timing",
    "Writer",
    "discard_waiting",
    "is_json",
    "render",
    "should_retry",
    "take_in_waiting",
]
