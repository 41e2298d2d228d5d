"""`llmblast config`: print the settings that a run would have."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import typer

from llmblast.cli.help_panels import PanelCommand
from llmblast.cli.options import stages_of, takes_settings
from llmblast.cli.run import DryRun
from llmblast.endpoint_settings import EndpointSettings
from llmblast.hiding import HIDDEN, hide_query, shown_file, shown_url, shown_variable
from llmblast.input_paths import scheme_of
from llmblast.setting_files import IN_FILES
from llmblast.settings import Settings
from llmblast.stage_loading import RUN_ONLY

config = typer.Typer(help="Show the settings.", no_args_is_help=True, rich_markup_mode=None)


@config.callback()
def _group() -> None:
    """Show the settings."""


@config.command(cls=PanelCommand)
@takes_settings()
def show(*, dry_run: DryRun = False, **given: Any) -> None:
    """Print the settings that a run would have, as TOML. What may hold keys or passwords is hidden."""
    stages = stages_of(given, os.environ, needs_input=False)
    if not stages[0].name:
        lines = list(_lines_of(stages[0].settings, "endpoints"))
    else:
        lines = list(_table({name: value for name, value in _values(stages[0].settings).items() if name in RUN_ONLY}))
    for index, stage in enumerate(stages if stages[0].name else ()):
        lines += ["", "[[stage]]", *_table({"name": stage.name})]
        lines += _lines_of(stage.settings, "stage.endpoints", without=(*RUN_ONLY, "format") if index else RUN_ONLY)
    typer.echo("\n".join(lines))


def _lines_of(settings: Settings, endpoint_table: str, without: Collection[str] = ()) -> Iterator[str]:
    """Yield the lines of TOML that show the settings."""
    yield from _table({name: value for name, value in _values(settings).items() if name not in without})
    for endpoint in settings.endpoints:
        yield from ("", f"[[{endpoint_table}]]", *_table(_shown(endpoint)))


def _values(settings: Settings) -> dict[str, Any]:
    """Return the settings that can be shown, without the endpoints."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    for inputs in ("input", "deferred"):
        values[inputs] = [hide_query(shown_url(name)) if scheme_of(name) else name for name in values[inputs]]
    del values["endpoints"]
    for name in IN_FILES:
        if values[f"{name}_file"] is not None:
            del values[name]
    return values


def _shown(endpoint: EndpointSettings) -> dict[str, Any]:
    values = {entry.name: getattr(endpoint, entry.name) for entry in fields(endpoint)}
    shown: dict[str, Any] = {
        name: show(values[name])
        for name, show in (("proxy", shown_url), ("key_env", shown_variable), ("key_file", shown_file))
        if values[name]
    }
    if endpoint.key_command:
        shown["key_command"] = HIDDEN
    if endpoint.custom is not None:
        shown["custom"] = {name: value for name, value in asdict(endpoint.custom).items() if value is not None}
    headers = dict.fromkeys(endpoint.headers, HIDDEN)
    return {**values, **shown, "url": hide_query(endpoint.url), "headers": headers}


def _table(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line of TOML for each value that is set; TOML has no null for the others."""
    for name, value in values.items():
        if value is not None and value != {}:
            yield f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    """Return a value in TOML, which writes strings, numbers, booleans and arrays as JSON does, but not objects."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_value(name)} = {_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    import orjson  # noqa: PLC0415 -- `--help` need not wait for it

    return orjson.dumps(value).decode()
