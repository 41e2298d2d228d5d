"""Options: give a command the options of the settings, made from their fields, and read the settings from them.

An option that is not given is None, so that a TOML file can set it; defaults are those of the fields alone.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, replace
from functools import cache
from typing import Annotated, Any, TypeVar

import typer

from llmblast.errors import UsageError
from llmblast.setting_option import Option, choices_of, help_of, options_of, variable_of
from llmblast.setting_values import FileList, Switch, kind_of
from llmblast.settings import Settings
from llmblast.stage_loading import StageSettings, load_stages

Command = TypeVar("Command", bound=Callable[..., None])

INPUT = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT...",
        help="Files of prompts: JSONL, CSV, Parquet, JSON or text, also compressed; patterns such as 'data/*.jsonl'; "
        "URLs; - reads standard input.",
        show_default=False,
    ),
]
CONFIG = Annotated[
    str | None,
    typer.Option(
        *("-c", "--config"),
        metavar="FILE",
        help="File of settings in TOML.",
        envvar=variable_of("config"),
        show_default=False,
        show_envvar=False,
        rich_help_panel="Endpoints",
    ),
]


def takes_settings(*, in_check: bool = False) -> Callable[[Command], Command]:
    """Return a decorator that gives a command INPUT and the options of the settings, as keywords.

    `in_check` leaves out the options that `llmblast check` does not have.
    """
    annotations = {
        "path": INPUT,
        **{
            name: _typer_option(entry, option)
            for name, (entry, option) in options_of(Settings).items()
            if option.in_check or not in_check
        },
        "config": CONFIG,
    }

    def decorate(command: Command) -> Command:
        parameters = (
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in annotations.items()
        )
        return take_options(command, parameters)

    return decorate


def take_options(command: Command, parameters: Iterable[inspect.Parameter]) -> Command:
    """Put `parameters` in place of a command's `**keywords`, before its own keywords, for typer to read."""
    own = [own for own in inspect.signature(command).parameters.values() if own.kind is not own.VAR_KEYWORD]
    signature = inspect.Signature(sorted([*parameters, *own], key=lambda parameter: parameter.kind))
    command.__signature__ = signature  # type: ignore[attr-defined] # functions may have one
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return command


def stages_of(
    given: Mapping[str, Any], environ: Mapping[str, str], *, needs_input: bool = True
) -> Sequence[StageSettings]:
    """Return the stages that a command's options make with the file of `--config`: one without a name, if it has none.

    Raises UsageError.
    """
    flags = dict(given)
    config, path = flags.pop("config"), flags.pop("path")
    if path:
        if flags["input"]:
            raise UsageError("INPUT and --input name the input twice: leave one out")
        flags["input"] = path
    elif not flags["input"] and (variable := environ.get(variable_of("input"))) is not None:
        flags["input"] = variable
    if not flags["deferred"] and (variable := environ.get(variable_of("deferred"))) is not None:
        flags["deferred"] = variable
    parse_given_params(flags)
    stages = load_stages(flags, config, environ)
    first = stages[0].settings
    is_unnamed = not flags["input"] and first.input == Settings().input
    if not (needs_input and is_unnamed and sys.stdin is not None and sys.stdin.isatty()):
        return stages
    if not first.deferred:
        raise UsageError("no input: pipe a JSONL file in, or name it: llmblast run prompts.jsonl")
    return [replace(stages[0], settings=replace(first, input=())), *stages[1:]]


def option_annotation(name: str) -> Any:
    """Return the annotation from which typer makes the option of a setting, for a command that takes only some."""
    return _typer_option(*options_of(Settings)[name])


def parse_given_params(flags: dict[str, Any]) -> None:
    """Replace the text of `--params` by its object. Raises UsageError."""
    if flags["params"] is not None:
        flags["params"] = _parse_params(flags["params"])


@cache
def _typer_option(entry: Field[Any], option: Option) -> Any:
    """Return the annotation from which typer makes the option of a field."""
    kind, choices = kind_of(entry.type), choices_of(entry.type)
    is_list = entry.name == "endpoints" or isinstance(kind, FileList)
    metavar = option.metavar or (entry.name.upper() if choices else kind.metavar)
    made = typer.Option(
        *option.names,
        help=help_of(entry, option),
        metavar=metavar or None,
        # typer would split the names of files at spaces: `stages_of` reads that variable
        envvar=None if isinstance(kind, FileList) else variable_of(entry.name),
        show_default=False,
        show_envvar=False,
        rich_help_panel=option.group,
        autocompletion=(lambda: list(choices)) if choices else None,
    )
    value = bool if isinstance(kind, Switch) else list[str] if is_list else str
    return Annotated[value | None, made]


def _parse_params(text: str) -> dict[str, Any]:
    import orjson  # noqa: PLC0415 -- `--help` need not wait for it

    try:
        params = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--params {text!r}: not JSON: {error}") from None
    if not isinstance(params, dict):
        raise UsageError(f"--params {text!r}: write an object, such as '{{\"temperature\": 0}}'")
    return params
