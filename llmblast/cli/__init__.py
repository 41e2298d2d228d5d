"""Command line: one module per command, which turns options into Settings and calls `job`."""

import gc
import os
import signal
import sys
from typing import NoReturn

from llmblast.cli.signals import block_status_signals

GC_THRESHOLD = 100_000
"""Collections during the imports find nothing and take 10 ms. A run and a mock server set their own threshold."""

DEFECT = 70
"""Copy of `ExitCode.DEFECT`, whose module may be the broken one."""


def main() -> None:
    """Run the `llmblast` command."""
    gc.set_threshold(GC_THRESHOLD)
    # Until the run handles signals, Ctrl-C ends the process as it ends any other program: nothing was sent yet.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    block_status_signals()
    try:
        from llmblast.cli.main import run_command_line  # noqa: PLC0415 -- 50 ms in which Ctrl-C would print a traceback

        run_command_line()
    except Exception as error:  # noqa: BLE001 -- any defect becomes one sentence
        _report_defect(error)


def _report_defect(error: Exception) -> NoReturn:
    """Print the defect in one sentence, write its details to a file, and exit."""
    try:
        from llmblast.job.defects import Defects  # noqa: PLC0415 -- `--help` need not wait for it

        command = next((word for word in sys.argv[1:2] if word.isalpha()), "")
        sentence = Defects(None, os.environ, command).report(error)
    except Exception:  # noqa: BLE001 -- the report may need the broken part
        sentence = f"a defect in llmblast: {type(error).__name__}"
    sys.stderr.write(f"llmblast: {sentence}\n")
    sys.exit(DEFECT)
