"""Fingerprint: the settings that shape what is sent, kept beside the answers they made, so that a resumed run notices
when they have changed: half of a file answered with one system prompt and half with another is no result.

They stand in `SAVE.settings`, values and all, because a person wants to know what is different, not that a hash is. The
file is a hint and no more: the two output files alone say what is finished, and a run whose hint is missing, damaged
or cannot be written goes on without. Nor is there anything to compare as long as no line is answered: what failed with
the wrong parameters is meant to be tried with others.

Not in it: what no provider sees (limits, concurrency, routes, keys), which endpoints there are, where images lie.
Endpoints may call one model by different names, so models are compared endpoint by endpoint.
"""

import os
from collections.abc import Mapping

import orjson

from llmblast.errors import UsageError
from llmblast.settings import Settings
from llmblast.watching import sanitize_text
from llmblast.writing.side_file import read_side_file, write_side_file

SUFFIX = ".settings"
_MODEL = "model"
_MODEL_OF = "model of "
_SHOWN_CHARACTERS = 40
_ALIKE_CHARACTERS = 10
"""So much of what two long values have in common is shown before the place where they part."""


def check_settings(settings: Settings) -> None:
    """Compare with what made the answers in the save file, whose lock is held.

    Raises UsageError if they differ and `changed_settings` does not say that this is meant. Blocks.
    """
    kept, current = read_side_file(_path_of(settings)), _shaping(settings)
    if kept in (None, current) or settings.changed_settings == "ok" or not os.path.getsize(settings.save):
        return
    _compare(settings.save, kept, current)


def keep_settings(settings: Settings) -> str | None:
    """Keep the settings of this run, right before its first answer is written: until then the answers in the file are
    those of the settings that stand there. Return what went wrong, in words. Blocks.
    """
    path, current = _path_of(settings), _shaping(settings)
    if read_side_file(path) == current:
        return None
    try:
        write_side_file(path, current)
    except OSError as error:
        return f"{path}: cannot be written: {error.strerror}; later runs cannot notice changed settings"
    return None


def _path_of(settings: Settings) -> str:
    return f"{os.path.realpath(settings.save)}{SUFFIX}"


def _shaping(settings: Settings) -> dict[str, object]:
    """By name, as JSON has them, so that a date from a TOML file is equal to its text. What is not set is null."""
    shaping = {
        "format": settings.format,
        "system": settings.system or None,
        "prompt": settings.prompt,
        "own fields": sorted(settings.own_fields) or None,
        **{f"params.{name}": value for name, value in settings.params.items()},
        _MODEL: settings.model,
        **{f"{_MODEL_OF}{endpoint.name}": endpoint.model or settings.model for endpoint in settings.endpoints},
    }
    loaded: dict[str, object] = orjson.loads(orjson.dumps(shaping))
    return loaded


def _compare(save: str, kept: Mapping[str, object], current: Mapping[str, object]) -> None:
    changes = [
        _as_text(name, kept.get(name), current.get(name))
        for name in sorted(kept.keys() | current.keys())
        if kept.get(name) != current.get(name) and _is_comparable(name, kept, current)
    ]
    if changes:
        raise UsageError(
            f"{save}: its answers were made with other settings: {'; '.join(changes)}: restore these to go on, "
            "add --changed-settings ok to mix both kinds of answers, or --overwrite to start over"
        )


def _is_comparable(name: str, kept: Mapping[str, object], current: Mapping[str, object]) -> bool:
    """A model is compared for the endpoints of both runs; the run's own counts where they have none in common."""
    if name.startswith(_MODEL_OF):
        return name in kept and name in current
    return name != _MODEL or not any(other.startswith(_MODEL_OF) for other in kept.keys() & current.keys())


def _as_text(name: str, before: object, now: object) -> str:
    """One change for a person: both values from shortly before the place where they part, cut short."""
    texts = [value if isinstance(value, str) else orjson.dumps(value).decode() for value in (before, now)]
    parts_at = next((index for index, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    is_short = max(map(len, texts)) <= _SHOWN_CHARACTERS
    start = 0 if is_short else max(parts_at - _ALIKE_CHARACTERS, 0)
    was, is_now = (
        "not set" if value is None else repr(sanitize_text(f"{'…' * bool(start)}{text[start:]}", _SHOWN_CHARACTERS))
        for value, text in zip((before, now), texts, strict=True)
    )
    return f"{sanitize_text(name, _SHOWN_CHARACTERS)} was {was}, is {is_now}"
