"""`llmblast batches`: list, await and cancel the batches of an output."""

import difflib
import inspect
import os
from typing import Annotated, Any

import typer

from llmblast.cli.options import CONFIG, option_annotation, take_options
from llmblast.errors import InputMissingError, UsageError
from llmblast.job.batch_folders import folder_of
from llmblast.setting_loading import load

_SETTINGS = ("endpoints", "model", "timeout", "connect_timeout", "json")
"""The settings of `run` that say how to reach an endpoint."""

LIST, WAIT, CANCEL = "list", "wait", "cancel"
ACTIONS = (LIST, WAIT, CANCEL)
Action = Annotated[
    str | None,
    typer.Argument(
        metavar="list|wait|cancel",
        help="list shows them, which is the default. wait waits until all have ended. cancel ends them: the next run "
        "collects what they have answered, and sends the rest directly.",
        show_default=False,
    ),
]
Save = Annotated[
    str | None,
    typer.Argument(metavar="SAVE", help="The run's file of answers. [default: save.jsonl]", show_default=False),
]


def _takes_settings(command: Any) -> Any:
    annotations = {**{name: option_annotation(name) for name in _SETTINGS}, "config": CONFIG}
    parameters = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    )
    return take_options(command, parameters)


@_takes_settings
def batches(action: Action = None, save: Save = None, **given: Any) -> None:
    """List the batches of a run, wait for them, or cancel them.

    The folder SAVE.batches tells which there are. With --url, their provider tells how far they are, and which other
    batches it has had in the last three days.
    """
    if action is not None and action not in ACTIONS:
        if save is not None or not _has_run(action):
            raise UsageError(f"{action}: is not a file of answers, nor {_suggest(action)}")
        action, save = LIST, action
    if save is not None and not _has_run(save):
        raise InputMissingError(f"{save}: no such file, and no folder {folder_of(save)}: name the answers of a run")
    config = given.pop("config")
    settings = load({**given, **({} if save is None else {"save": save})}, config, os.environ)
    from llmblast.cli.loop import run_loop  # noqa: PLC0415 -- `--help` need not wait for it
    from llmblast.job.batch_overview import show_batches  # noqa: PLC0415

    raise typer.Exit(run_loop(show_batches(settings, waits=action == WAIT, cancels=action == CANCEL)))


def _has_run(save: str) -> bool:
    """Return whether a run has written these answers, or has noted batches for them."""
    return os.path.exists(save) or os.path.exists(folder_of(save))


def _suggest(word: str) -> str:
    close = difflib.get_close_matches(word, ACTIONS, 1)
    return f"one of {', '.join(ACTIONS)}{f'; did you mean {close[0]}?' if close else ''}"
