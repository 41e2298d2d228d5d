"""`llmblast run`: send the prompts."""

import os
import sys
from typing import Annotated, Any

import typer

from llmblast.cli.options import settings_of, takes_settings
from llmblast.job.start import run_preflight_checks

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Validate and estimate only, as llmblast check does.",
        show_default=False,
        rich_help_panel="Display",
    ),
]


@takes_settings()
def run(*, dry_run: DryRun = False, **given: Any) -> None:
    """Send every line of INPUT and write its answer. Run it again to go on where it stopped."""
    settings = settings_of(given, os.environ)
    if dry_run:
        from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- see below
        from llmblast.job.check import check  # noqa: PLC0415

        raise typer.Exit(run_loop(check(settings)))
    settings = run_preflight_checks(settings)
    from llmblast.cli.run_job import run_job  # noqa: PLC0415 -- 100 ms that `--help` need not wait for

    raise typer.Exit(run_job(settings, os.environ, ["llmblast", *sys.argv[1:]]))
