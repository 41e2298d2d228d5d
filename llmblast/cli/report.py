"""Report: tell how a run, or a stage of one, has ended: as a text on standard error and as values for `--json`."""

import os
import shlex
import sys
from collections.abc import Collection, Sequence

import orjson

from llmblast.errors import ExitCode
from llmblast.hiding import shown_command
from llmblast.job.closing_words import next_command, next_when, output_files
from llmblast.job.messages import shown
from llmblast.job.pipeline import Pipeline
from llmblast.job.run import MAX_VERDICT_CHARS, Ending
from llmblast.settings import Settings
from llmblast.watching import Summary

_LOG_COLUMNS = 120
_START_OVER = ("--overwrite", "--force")


class Report:
    """The report of one run. It quotes `command`, the command line, to tell how to continue.

    `says_next` are the exit codes for which it tells the next command; None stands for all.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        command: Sequence[str],
        says_next: Collection[ExitCode] | None = None,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._tell = pipeline.defects.tell
        self._fence = pipeline.defects.fence
        self._command = command_to_continue(command)
        self._says_next = says_next

    def tell(self, ending: Ending) -> tuple[ExitCode, bytes]:
        """Print the summary; return the exit code and the bytes for standard output."""
        exit_code = ending.exit_code
        if not self._settings.quiet and exit_code is not ExitCode.READER_GONE:
            self._tell(self.as_text(ending))
        elif exit_code is not ExitCode.OK:
            self._tell(f"llmblast: {self.verdict(ending)}")
        if not self._settings.json:
            return exit_code, b""
        return exit_code, orjson.dumps(self.as_values(ending)) + b"\n"

    def as_text(self, ending: Ending) -> str:
        """Return the summary."""
        with self._fence.around("the summary"):
            return self._summary(ending).as_text(_width())
        return self.verdict(ending)

    def as_values(self, ending: Ending) -> dict[str, object]:
        """Return the exit code and the summary as values for JSON."""
        values: dict[str, object] = {"verdict": self.verdict(ending)}
        with self._fence.around("the summary"):
            values = self._summary(ending).as_json()
        return {"exit_code": int(ending.exit_code), **values}

    def verdict(self, ending: Ending) -> str:
        """Return how the run has ended, in one line."""
        return shown(ending.verdict, MAX_VERDICT_CHARS, self._fence)

    def _summary(self, ending: Ending) -> Summary:
        exit_code, counters, pipeline = ending.exit_code, self._pipeline.counters, self._pipeline
        command = None
        if self._says_next is None or exit_code in self._says_next:
            can_resume = pipeline.goes_on_by_same_command
            command = next_command(self._settings, counters, exit_code, self._command, can_resume=can_resume)
        return Summary(
            counters,
            ending.duration_s,
            pipeline.limits,
            ending.verdict,
            command,
            next_when(counters, exit_code, has_endpoints=pipeline.engine.has_endpoints),
            output_files(self._settings, *pipeline.records_before),
        )


def command_to_continue(command: Sequence[str]) -> str:
    """Return the command line that continues a run, as it may be shown."""
    return shlex.join(shown_command([word for word in command if word not in _START_OVER]))


def _width() -> int:
    """Return the columns of the terminal for the summary; elsewhere, as in a log or a mail, lines may be longer."""
    wanted = os.environ.get("COLUMNS", "")
    try:
        columns = int(wanted) if wanted.isdecimal() else os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or _LOG_COLUMNS
