"""`llmblast check`: validate every line and estimate; send nothing."""

import os
from typing import Any

import typer

from llmblast.cli.options import settings_of, takes_settings


@takes_settings(in_check=True)
def check(**given: Any) -> None:
    """Validate every line of INPUT, estimate tokens and time at the limits. Send nothing."""
    settings = settings_of(given, os.environ)
    from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- `--help` need not wait for it
    from llmblast.job import check as job  # noqa: PLC0415

    raise typer.Exit(run_loop(job.check(settings)))
