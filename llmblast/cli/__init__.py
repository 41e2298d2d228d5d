"""The command line: one file a command, options in, Settings out, no logic."""

import signal

from llmblast.job.signals import hold_status_requests


def main() -> None:
    """The `llmblast` command."""
    # Until the job listens to signals, Ctrl-C ends the process as it ends any other program: nothing was sent yet.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    hold_status_requests()
    from llmblast.cli.main import run_command_line  # noqa: PLC0415 -- 50 ms in which Ctrl-C would print a traceback

    run_command_line()
