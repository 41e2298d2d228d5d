"""`llmblast convert`: rewrite files of requests or of results in another form or kind of file. Nothing is sent."""

import inspect
import os
import sys
from typing import Annotated, Any

import typer

from llmblast.cli.options import option_annotation, parse_given_params, take_options
from llmblast.errors import ExitCode, UsageError
from llmblast.setting_loading import load

_SETTINGS = (
    "format",
    "prompt",
    "prompt_file",
    "system",
    "system_file",
    "map",
    "params",
    "own_fields",
    "media_root",
    "media_max_bytes",
    "limit",
    "errors",
    "model",
    "overwrite",
    "quiet",
)
"""The settings of `run` that shape a request or name what to do with files."""

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT... OUTPUT",
        help="Files, patterns or URLs to read, as run reads them; - reads standard input. The last one is the file to "
        "write; - writes standard output.",
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        help="Form of the rows: simple, raw, openai-batch, anthropic-batch or llmblast; or kind of the file, where its "
        "ending does not say it: jsonl, csv, tsv, parquet or arrow. Repeat for both.",
        metavar="FORM",
        show_default=False,
        rich_help_panel="Output",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Kind of the input, where neither its ending nor its content says it: jsonl, csv, tsv, json, text, "
        "parquet or arrow.",
        metavar="KIND",
        show_default=False,
        rich_help_panel="Input",
    ),
]
Fields = Annotated[
    str | None,
    typer.Option(
        "--fields",
        help="Only these fields, in this order: id,response,usage.prompt_tokens.",
        metavar="NAME,NAME",
        show_default=False,
        rich_help_panel="Output",
    ),
]


def _takes_settings(command: Any) -> Any:
    parameters = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option_annotation(name))
        for name in _SETTINGS
    )
    return take_options(command, parameters)


@_takes_settings
def convert(
    files: Files,
    *,
    to: To = None,
    from_kind: From = None,
    fields: Fields = None,
    **given: Any,
) -> None:
    """Rewrite INPUTs as OUTPUT: requests and results in other forms, JSONL, CSV and Parquet. Send nothing."""
    from llmblast.converting import Conversion  # noqa: PLC0415 -- `--help` need not wait for it
    from llmblast.converting import convert as run  # noqa: PLC0415
    from llmblast.converting.file_kinds import INPUT_KINDS  # noqa: PLC0415
    from llmblast.converting.naming import chosen_fields, form_and_kind  # noqa: PLC0415
    from llmblast.watching import sanitize_text  # noqa: PLC0415

    *sources, target = files
    if not sources:
        raise UsageError("name an input and an output: llmblast convert INPUT OUTPUT")
    if from_kind is not None and from_kind not in INPUT_KINDS:
        raise UsageError(f"--from {from_kind}: is not a kind of file: write one of {', '.join(INPUT_KINDS)}")
    parse_given_params(given)
    settings = load(given, None, os.environ)
    form, to_kind = form_and_kind(to or [])
    conversion = Conversion(
        inputs=sources,
        output=target,
        form=form,
        from_kind=from_kind,
        to_kind=to_kind,
        fields=chosen_fields(fields),
        settings=settings,
    )
    outcome = run(conversion)
    if not settings.quiet:
        place = "standard output" if target == "-" else target
        sys.stderr.writelines(f"{sanitize_text(note)}\n" for note in outcome.notes)
        sys.stderr.write(f"{outcome.rows:,} {'row' if outcome.rows == 1 else 'rows'} written to {place}\n")
    if outcome.bad_rows:
        rows = "1 bad row is" if outcome.bad_rows == 1 else f"{outcome.bad_rows:,} bad rows are"
        sys.stderr.write(f"{rows} in {outcome.errors}\n")
        raise typer.Exit(int(ExitCode.SOME_FAILED))
