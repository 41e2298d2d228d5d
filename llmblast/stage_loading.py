"""Loading of stages: the settings of each `[[stage]]` table of a TOML file, over those that stand above the tables.

    [[stage]]
    name = "draft"
    prompt = "Answer: {question}"

    [[stage]]
    name = "judge"
    prompt = "Judge this answer: {response}"

Each stage has settings like a run. Its input are the records that the stage before it saves. Flags and variables go
before the file, as always: they hold for all stages. What is about the input holds for the first stage, the outputs
that stand above the tables for the last one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from llmblast.errors import UsageError
from llmblast.pipes import is_pipe
from llmblast.setting_loading import HINTS, STAGES, merge, read_config, read_flags
from llmblast.setting_values import did_you_mean, shown_name
from llmblast.settings import Settings

RUN_ONLY = (
    "input",
    "deferred",
    "follow",
    "limit",
    "sample",
    "seed",
    "progress",
    "json",
    "quiet",
    "verbose",
    "processes",
)
"""Settings of the whole run, which no table of a stage may have."""
_OF_INPUT = ("deferred", "follow", "limit", "sample", "seed", "format", "map", "repeat")
"""Settings that stand above the tables for the first stage only."""
_OF_OUTPUT = ("save", "errors")
"""Settings that stand above the tables for the last stage only."""
_ONE_EACH = "timeline"
_FOR_NEXT_STAGE = {"output_format": "llmblast"}
"""Default of stages with a next one, whose template finds `response` then, whatever the form of the lines is."""
_NAME = "name"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class StageSettings:
    """One stage of a run; a run without stages is one without a name."""

    name: str
    settings: Settings


def load_stages(
    flags: Mapping[str, Any], config: str | None = None, environ: Mapping[str, str] | None = None
) -> Sequence[StageSettings]:
    """Return the stages of the TOML file; one without a name if it has none. See `setting_loading.load`.

    Raises UsageError.
    """
    environ = environ or {}
    given, in_config = read_flags(flags, environ), read_config(config)
    if STAGES not in in_config:
        return [StageSettings("", merge(given, in_config, config, environ))]
    tables = in_config.pop(STAGES)
    place = f"{config}: {STAGES}"
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{place}: is not a table: write [[stage]], and below it the settings of the stage")
    return merge_stages(tables, given, in_config, config, environ)


def merge_stages(
    tables: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    above: Mapping[str, Any],
    config: str | None,
    environ: Mapping[str, str],
) -> Sequence[StageSettings]:
    """Return the stages that tables make, with `given` flags over them, and the settings `above` them below.

    Raises UsageError.
    """
    place = f"{config}: {STAGES}" if config else "stages"
    names = [_name_of(table, index, f"{place}[{index}]") for index, table in enumerate(tables)]
    stages: list[StageSettings] = []
    for index, (name, table) in enumerate(zip(names, tables, strict=True)):
        where = f"{place}[{index}]"
        if name in names[:index]:
            raise UsageError(f"{where}.name: {name} is the name of another stage: give each its own")
        own = {setting: value for setting, value in table.items() if setting != _NAME}
        _check_names(own, where, is_first=index == 0)
        last = index == len(tables) - 1
        shared, flags = _shared(above, own, index == 0, last), _shared(given, {}, index == 0, last)
        if _ONE_EACH in shared or _ONE_EACH in flags:
            raise UsageError(f"{_ONE_EACH}: is one file for several stages: name one in each [[stage]] table instead")
        defaults = {"save": f"{name}.jsonl"} if last else {"save": f"{name}.jsonl", **_FOR_NEXT_STAGE}
        in_config = {**defaults, **_without_other_text(shared, own), **own}
        table_name = f"{STAGES}[{index}]" if config else f"stages[{index}]"
        settings = merge(flags, in_config, config, environ, dict.fromkeys(own, table_name))
        if index:
            settings = replace(settings, input=(stages[-1].settings.save,))
            _check_input(settings, stages[-1], where)
        stages.append(StageSettings(name, settings))
    return stages


def _name_of(table: Mapping[str, Any], index: int, where: str) -> str:
    name = table.get(_NAME, f"stage{index + 1}")
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise UsageError(f"{where}.name: is not a name: write letters, digits, dots, _ and -, such as judge")
    return name


def _check_names(own: Mapping[str, Any], where: str, *, is_first: bool) -> None:
    known = [entry.name for entry in fields(Settings)]
    for setting in own:
        if setting in RUN_ONLY:
            raise UsageError(f"{where}.{setting}: holds for the whole run: write it above the first [[stage]]")
        if setting == "format" and not is_first:
            raise UsageError(f"{where}.format: its input are the records of the stage before it: leave it out")
        if setting not in known:
            raise UsageError(f"{where}: unknown setting {shown_name(setting)}{_hint(setting, known)}")


def _hint(setting: str, known: Sequence[str]) -> str:
    """Return what to write instead of an unknown setting."""
    if setting in HINTS:
        return f": {HINTS[setting].replace('[[endpoints]]', f'[[{STAGES}.endpoints]]')}"
    close = did_you_mean(setting, [_NAME, *known])
    return close if close.startswith("; did") else ": see llmblast run --help"


def _shared(settings: Mapping[str, Any], own: Mapping[str, Any], is_first: bool, is_last: bool) -> dict[str, Any]:
    """Return the settings of all stages that hold for one of them."""
    others = (*(() if is_first else ("input", *_OF_INPUT)), *(() if is_last else _OF_OUTPUT))
    return {name: value for name, value in settings.items() if name not in others and name not in own}


def _without_other_text(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shared settings without a text that the stage itself gives in the other way."""
    others = {"prompt": "prompt_file", "prompt_file": "prompt", "system": "system_file", "system_file": "system"}
    return {name: value for name, value in shared.items() if others.get(name) not in own}


def _check_input(settings: Settings, before: StageSettings, where: str) -> None:
    """Raise UsageError for a stage that cannot read the records of the one before it."""
    if settings.prompt is None:
        raise UsageError(
            f"{where}.prompt: is missing: write the message with the answer of the stage before it in it, such as "
            'prompt = "Judge: {response}"'
        )
    if is_pipe(before.settings.save):
        raise UsageError(
            f"{before.settings.save}: is the output of stage {before.name}, which the next stage cannot read: "
            "name a file with save"
        )
