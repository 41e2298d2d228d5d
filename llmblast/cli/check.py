"""`llmblast check`: validate every line and estimate; send nothing."""

import os
from dataclasses import replace
from typing import Annotated, Any

import typer

from llmblast.cli.options import stages_of, takes_settings
from llmblast.errors import UsageError

PROBE = Annotated[
    bool,
    typer.Option(
        "--endpoints",
        help="Send one tiny request to each endpoint instead, and read no input.",
        rich_help_panel="Endpoints",
    ),
]


@takes_settings(in_check=True)
def check(*, probe: PROBE = False, **given: Any) -> None:
    """Validate every line of INPUT, estimate tokens and time at the limits. Send nothing, unless --endpoints is set."""
    if probe and given["path"] is not None:
        raise UsageError("--endpoints: reads no input: leave INPUT out, or check the lines without --endpoints")
    stages = stages_of(given, os.environ, needs_input=not probe)
    settings, has_stages = stages[0].settings, bool(stages[0].name)
    from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- `--help` need not wait for it

    if probe:
        from llmblast.job.endpoint_check import check_endpoints  # noqa: PLC0415

        if has_stages:
            from llmblast.job.check_stages import endpoints_of  # noqa: PLC0415

            settings = replace(settings, endpoints=endpoints_of(stages))
        raise typer.Exit(run_loop(check_endpoints(settings)))
    if has_stages:
        from llmblast.job.check_stages import check_stages  # noqa: PLC0415

        raise typer.Exit(run_loop(check_stages(stages)))
    from llmblast.job import check as job  # noqa: PLC0415

    raise typer.Exit(run_loop(job.check(settings)))
