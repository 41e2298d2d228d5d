"""Settings whose text is in a file: `--prompt-file` and `--system-file`. The content becomes the setting itself, so
that everything behind the loading, such as the comparison with earlier answers, sees the text and not a path.
"""

from collections.abc import Mapping
from typing import Any

from llmblast.errors import UsageError
from llmblast.setting_option import variable_of

IN_FILES = ("prompt", "system")
"""The settings that a file may hold; `NAME_file` names it."""
_PAIRS = [pair for name in IN_FILES for pair in ((name, f"{name}_file"), (f"{name}_file", name))]
_PAIRS += [("by", "deadline"), ("deadline", "by")]
MAX_BYTES = 16 * 1024 * 1024


def without_overridden(in_config: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a TOML file without the texts that flags give in the other way."""
    overridden = {name for name, other in _PAIRS if other in flags}
    return {name: value for name, value in in_config.items() if name not in overridden}


def without_variables(flags: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the flags without a text from a variable where an option gives it in the other way."""
    from_variables = {name for name, value in flags.items() if environ.get(variable_of(name)) == value}
    overridden = {
        name for name, other in _PAIRS if name in from_variables and other in flags and other not in from_variables
    }
    return {name: value for name, value in flags.items() if name not in overridden}


def read_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the files that settings name. Raises UsageError for one that cannot be used."""
    texts = {}
    for name in IN_FILES:
        path = settings.get(f"{name}_file")
        if not isinstance(path, str):
            continue
        if settings.get(name) is not None:
            raise UsageError(f"--{name} and --{name}-file both give the text: leave one out")
        texts[name] = _read(f"--{name}-file", path)
    return texts


def _read(option: str, path: str) -> str:
    """Return the text of a file. The newline that editors put behind the last line is left out."""
    if not path:
        raise UsageError(f"{option}: is empty: name a file")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read: {error.strerror}: name an existing file") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{option} {path}: has more than {MAX_BYTES >> 20} MiB: name a file with a prompt")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path}: invalid UTF-8: save the file as UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
