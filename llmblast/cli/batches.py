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

LIST, WAIT, CANCEL = "list", "wait", "cancel"
WORDS = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[list|wait|cancel] [SAVE]",
        help="What to do, list by default: wait until they have ended, or cancel them (the next run collects what they "
        "have, and sends the rest directly); and the file of answers, save.jsonl by default.",
        show_default=False,
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
def batches(words: WORDS = None, **given: Any) -> None:
    """List the batches of a run, by the journal beside its answers and by the API of the endpoints that are named."""
    action, *files = words if words and words[0] in (LIST, WAIT, CANCEL) else [LIST, *(words or ())]
    if len(files) > 1:
        raise UsageError(f"{files[1]}: is one word too many: write llmblast batches [list|wait|cancel] [SAVE]")
    config = given.pop("config")
    settings = load({**given, **({"save": files[0]} if files else {})}, config, os.environ)
    from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- `--help` need not wait for it
    from llmblast.job.batch_overview import show_batches  # noqa: PLC0415

    raise typer.Exit(run_loop(show_batches(settings, waits=action == WAIT, cancels=action == CANCEL)))
