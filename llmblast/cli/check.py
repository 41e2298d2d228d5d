"""`llmblast check`: validates every line and estimates; sends nothing."""

import os

import typer

from llmblast.cli import options
from llmblast.cli.options import settings_of


def check(  # noqa: PLR0917 -- one parameter an option
    input: options.Input = None,
    requests_filepath: options.RequestsFilepath = None,
    save: options.Save = None,
    errors: options.Errors = None,
    url: options.Url = None,
    config: options.Config = None,
    model: options.Model = None,
    system: options.System = None,
    prompt: options.Prompt = None,
    params: options.Params = None,
    own_fields: options.OwnFields = None,
    format: options.Format = None,
    media_root: options.MediaRoot = None,
    limit: options.Limit = None,
    rps: options.Rps = None,
    rpm: options.Rpm = None,
    tpm: options.Tpm = None,
    rpd: options.Rpd = None,
    itpm: options.Itpm = None,
    otpm: options.Otpm = None,
    retry_errors: options.RetryErrors = None,
    overwrite: options.Overwrite = None,
    json: options.Json = None,
    quiet: options.Quiet = None,
) -> None:
    """Validate every line of INPUT, estimate tokens and time at the limits. Send nothing."""
    settings = settings_of(dict(locals()), os.environ)
    from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- `--help` need not wait for it
    from llmblast.job import check as job  # noqa: PLC0415

    raise typer.Exit(run_loop(job.check(settings)))
