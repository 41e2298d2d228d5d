"""`llmblast run`: send the prompts."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from llmblast.cli.options import stages_of, takes_settings
from llmblast.errors import ExitCode
from llmblast.job.start import run_preflight_checks
from llmblast.stage_loading import StageSettings

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
    stages = stages_of(given, os.environ)
    settings = stages[0].settings
    if dry_run and not stages[0].name:
        from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- see below
        from llmblast.job.check import check  # noqa: PLC0415

        raise typer.Exit(run_loop(check(settings)))
    if stages[0].name:
        raise typer.Exit(_run_stages(stages, dry_run=dry_run))
    settings = run_preflight_checks(settings)
    from llmblast.cli.run_job import run_job  # noqa: PLC0415 -- 100 ms that `--help` need not wait for

    raise typer.Exit(run_job(settings, os.environ, ["llmblast", *sys.argv[1:]]))


def _run_stages(stages: Sequence[StageSettings], *, dry_run: bool) -> ExitCode:
    if dry_run:
        from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- as above
        from llmblast.job.check_stages import check_stages  # noqa: PLC0415

        return run_loop(check_stages(stages))
    from llmblast.job.stages import prepare_stages  # noqa: PLC0415

    stages = prepare_stages(stages)
    from llmblast.cli.run_stages import run_stages  # noqa: PLC0415

    return run_stages(stages, os.environ, ["llmblast", *sys.argv[1:]])
