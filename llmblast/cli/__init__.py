"""The command line: one file a command, options in, Settings out, no logic."""

import gc
import os
import signal
import sys
from typing import NoReturn

from llmblast.cli.signals import hold_status_requests

GC_OBJECTS = 100_000
"""What is loaded is no garbage: to look at it all the time takes 10 ms of a start. What serves long sets its own."""

DEFECT = 70
"""`ExitCode.DEFECT`, where even its module may be broken."""


def main() -> None:
    """The `llmblast` command."""
    gc.set_threshold(GC_OBJECTS)
    # Until the job listens to signals, Ctrl-C ends the process as it ends any other program: nothing was sent yet.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    hold_status_requests()
    try:
        from llmblast.cli.main import run_command_line  # noqa: PLC0415 -- 50 ms in which Ctrl-C would print a traceback

        run_command_line()
    except Exception as error:  # noqa: BLE001 -- whatever it is, a person gets a sentence
        _report_defect(error)


def _report_defect(error: Exception) -> NoReturn:
    """Say what is wrong in one sentence, write the details to a file, and end the process."""
    try:
        from llmblast.job.defects import Defects  # noqa: PLC0415 -- `--help` need not wait for it

        command = next((word for word in sys.argv[1:2] if word.isalpha()), "")
        sentence = Defects(None, os.environ, command).report(error)
    except Exception:  # noqa: BLE001 -- what it needs may be what is broken
        sentence = f"a defect in llmblast: {type(error).__name__}"
    sys.stderr.write(f"llmblast: {sentence}\n")
    sys.exit(DEFECT)
