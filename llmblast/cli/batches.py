"""`llmblast batches`: list, await and cancel the batches of an output."""

import inspect
import os
from typing import Annotated, Any

import typer

from llmblast.cli.options import CONFIG, option_annotation, take_options
from llmblast.errors import UsageError
from llmblast.setting_loading import load

_SETTINGS = ("endpoints", "model", "timeout", "connect_timeout", "json")
"""The settings of `run` that say how to reach an endpoint."""

SAVE = Annotated[str, typer.Argument(metavar="[SAVE]", help="File of answers of the run that has started the batches.")]
WAIT = Annotated[
    bool, typer.Option("--wait", help="Wait until they have ended at the provider.", rich_help_panel="Display")
]
CANCEL = Annotated[
    bool,
    typer.Option(
        "--cancel",
        help="End them; the next run collects what they have, and sends the rest directly.",
        rich_help_panel="Display",
    ),
]


def _takes_settings(command: Any) -> Any:
    annotations = {**{name: option_annotation(name) for name in _SETTINGS}, "config": CONFIG}
    parameters = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    )
    return take_options(command, parameters)


@_takes_settings
def batches(save: SAVE = "save.jsonl", *, wait: WAIT = False, cancel: CANCEL = False, **given: Any) -> None:
    """List the batches of a run, by the journal beside its answers and by the API of the endpoints that are named."""
    if wait and cancel:
        raise UsageError("--wait and --cancel: cancel first, then wait")
    config = given.pop("config")
    settings = load({**given, "save": save}, config, os.environ)
    from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- `--help` need not wait for it
    from llmblast.job.batch_overview import show_batches  # noqa: PLC0415

    raise typer.Exit(run_loop(show_batches(settings, waits=wait, cancels=cancel)))
