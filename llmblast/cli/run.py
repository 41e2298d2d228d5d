"""`llmblast run`: the job."""

import os
import sys

import typer

from llmblast.cli import options
from llmblast.cli.options import settings_of
from llmblast.job.start import run_preflight_checks


def run(  # noqa: PLR0917 -- one parameter an option
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
    burst: options.Burst = None,
    concurrency: options.Concurrency = None,
    route: options.Route = None,
    hedge: options.Hedge = None,
    max_attempts: options.MaxAttempts = None,
    timeout: options.Timeout = None,
    connect_timeout: options.ConnectTimeout = None,
    max_time: options.MaxTime = None,
    max_wait: options.MaxWait = None,
    max_errors: options.MaxErrors = None,
    grace: options.Grace = None,
    transport: options.Transport = None,
    processes: options.Processes = None,
    disk_wait: options.DiskWait = None,
    spool: options.SpoolDirectory = None,
    retry_errors: options.RetryErrors = None,
    changed_settings: options.ChangedSettings = None,
    overwrite: options.Overwrite = None,
    force: options.Force = None,
    echo: options.Echo = None,
    body: options.Body = None,
    progress: options.Progress = None,
    json: options.Json = None,
    quiet: options.Quiet = None,
    verbose: options.Verbose = None,
    timeline: options.TimelineFile = None,
    dry_run: options.DryRun = False,
) -> None:
    """Send every line of INPUT and write its answer. Run it again to go on where it stopped."""
    given = dict(locals())
    del given["dry_run"]
    settings = settings_of(given, os.environ)
    if dry_run:
        from llmblast.job.check import check  # noqa: PLC0415 -- see below

        raise typer.Exit(check(settings))
    settings = run_preflight_checks(settings)
    from llmblast.job.run import run as run_job  # noqa: PLC0415 -- 100 ms that `--help` need not wait for

    raise typer.Exit(run_job(settings, os.environ, ["llmblast", *sys.argv[1:]]))
