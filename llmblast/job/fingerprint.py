"""Fingerprint: store the settings that determine requests beside the answers, to detect changes when a run is resumed.

Answers made with different system messages are no consistent result. `SAVE.settings` has the values, not a hash, to
show what has changed. The file is only a hint: the two output files tell which lines are completed, and a run ignores a
missing or damaged hint. Without answers nothing is compared: failed lines may need other parameters. Lines that wait
for a batch count as answers: the provider has their requests.

Excluded: settings that no provider sees (limits, concurrency, routes, keys), the list of endpoints, and the directory
of images. Endpoints may have different names for one model, so models are compared endpoint by endpoint.
"""

import os
from collections.abc import Mapping

import orjson

from llmblast.errors import UsageError
from llmblast.job.batch_folders import folder_of, has_batches, has_open_batches
from llmblast.settings import FILE_FORMATS, Settings
from llmblast.watching import sanitize_text
from llmblast.writing.side_file import read_side_file, write_side_file

SUFFIX = ".settings"
_MODEL = "model"
_MODEL_OF = "model of "
_BODY_OF = "custom body of "
_SHOWN_CHARACTERS = 40
_COMMON_CHARACTERS = 10
"""Characters of the common prefix of two long values that are shown before their difference."""


def check_settings(settings: Settings) -> None:
    """Compare the settings with those of the answers in the save file, whose lock is held, and of its batches. Blocks.

    Raises UsageError if they differ and `changed_settings` does not allow this. While batches are open, nothing does:
    their answers would get records with prompts that were never sent.
    """
    kept, current, save = read_side_file(_path_of(settings)), _request_settings(settings), settings.save
    if kept is None or kept == current:
        return
    if has_batches(save) and has_open_batches(save):
        fix = f"restore these to collect the answers, or give the batches up by removing {folder_of(save)}"
        _compare(f"{save}: its batches", kept, current, fix)
    elif settings.changed_settings != "ok" and os.path.getsize(save):
        fix = (
            "restore these to go on, add --changed-settings ok to mix both kinds of answers, or --overwrite to start "
            "over"
        )
        _compare(f"{save}: its answers", kept, current, fix)


def keep_settings(settings: Settings) -> str | None:
    """Store the settings of this run; call this right before its first answer is written, or its first line is packed
    for a batch. Blocks.

    Return an error message if the file cannot be written.
    """
    path, current = _path_of(settings), _request_settings(settings)
    if read_side_file(path) == current:
        return None
    try:
        write_side_file(path, current)
    except OSError as error:
        return f"{path}: cannot be written: {error.strerror}; later runs cannot notice changed settings"
    return None


def _path_of(settings: Settings) -> str:
    return f"{os.path.realpath(settings.save)}{SUFFIX}"


def _request_settings(settings: Settings) -> dict[str, object]:
    """Return the settings by name, as JSON values, so that a date from TOML equals its text; null if not set."""
    settings_by_name = {
        "format": "auto" if settings.format in FILE_FORMATS else settings.format,
        "system": settings.system or None,
        "prompt": settings.prompt,
        **{f"map.{name}": field for name, field in settings.map.items()},
        "schema": settings.schema,
        "repeat": settings.repeat > 1 or None,
        "own fields": sorted(settings.own_fields) or None,
        **{f"params.{name}": value for name, value in settings.params.items()},
        _MODEL: settings.model,
        **{f"{_MODEL_OF}{endpoint.name}": endpoint.model or settings.model for endpoint in settings.endpoints},
        **{f"{_BODY_OF}{e.name}": e.custom.body for e in settings.endpoints if e.custom is not None},
    }
    loaded: dict[str, object] = orjson.loads(orjson.dumps(settings_by_name))
    return loaded


def _compare(what: str, kept: Mapping[str, object], current: Mapping[str, object], fix: str) -> None:
    changes = [
        _as_text(name, kept.get(name), current.get(name))
        for name in sorted(kept.keys() | current.keys())
        if kept.get(name) != current.get(name) and _is_comparable(name, kept, current)
    ]
    if changes:
        raise UsageError(f"{what} were made with other settings: {'; '.join(changes)}: {fix}")


def _is_comparable(name: str, kept: Mapping[str, object], current: Mapping[str, object]) -> bool:
    """Return whether to compare a setting: models and bodies of common endpoints, the run's model if there are none."""
    if name.startswith((_MODEL_OF, _BODY_OF)):
        return name in kept and name in current
    return name != _MODEL or not any(other.startswith(_MODEL_OF) for other in kept.keys() & current.keys())


def _as_text(name: str, before: object, now: object) -> str:
    """Return the text of one change, with excerpts of both values that show their difference."""
    texts = [value if isinstance(value, str) else orjson.dumps(value).decode() for value in (before, now)]
    differs_at = next((index for index, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    is_short = max(map(len, texts)) <= _SHOWN_CHARACTERS
    start = 0 if is_short else max(differs_at - _COMMON_CHARACTERS, 0)
    was, is_now = (
        "not set" if value is None else repr(sanitize_text(f"{'…' * bool(start)}{text[start:]}", _SHOWN_CHARACTERS))
        for value, text in zip((before, now), texts, strict=True)
    )
    return f"{sanitize_text(name, _SHOWN_CHARACTERS)} was {was}, is {is_now}"
