"""The command line: one file a command, options in, Settings out, no logic."""

import gc
import signal

from llmblast.job.signals import hold_status_requests

GC_OBJECTS = 100_000
"""What is loaded is no garbage: to look at it all the time takes 10 ms of a start. What serves long sets its own."""


def main() -> None:
    """The `llmblast` command."""
    gc.set_threshold(GC_OBJECTS)
    # Until the job listens to signals, Ctrl-C ends the process as it ends any other program: nothing was sent yet.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    hold_status_requests()
    from llmblast.cli.main import run_command_line  # noqa: PLC0415 -- 50 ms in which Ctrl-C would print a traceback

    run_command_line()
