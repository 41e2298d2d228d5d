"""Outcomes to files: records, batches, locks, recovery."""

from llmblast.writing.output_file import OutputFile
from llmblast.writing.records import FORMATS, render
from llmblast.writing.retries import should_retry
from llmblast.writing.writer import Writer

__all__ = ["FORMATS", "OutputFile", "Writer", "render", "should_retry"]
