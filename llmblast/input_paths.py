"""Input paths: the names of the inputs of a run, as people give them: files, patterns, `-`, URLs."""

import fnmatch
import glob
import os
import re
from collections.abc import Sequence

from llmblast.errors import InputMissingError, UsageError

STDIN = "-"
STDIN_NAME = "standard input"
DEFERRED_PROMPTS = "the deferred prompts"
"""The name of prompts of the Python API that may wait, in results, too."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def scheme_of(path: str) -> str:
    """Return the scheme of a URL in lower case; empty for the path of a file."""
    match = _SCHEME.match(path)
    return match[1].lower() if match else ""


def shown_input(path: str) -> str:
    """Return the name of an input for messages; a URL without user, query and fragment, which may hold a key."""
    if path == STDIN:
        return STDIN_NAME
    return recorded_input(path)


def recorded_input(path: str) -> str:
    """Return the name of an input for records: as it was given, but a URL without what may be a key."""
    if not scheme_of(path):
        return path
    scheme, _, rest = path.partition("://")
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


def expand_inputs(given: Sequence[str], *, follow: bool = False) -> list[str]:
    """Return the paths of all inputs in their order. A pattern stands for the files that match it, sorted by name.

    A name with `*`, `?` or `[` is a pattern, unless a file has that very name. With `follow`, the last input must be a
    file. Raises InputMissingError for a pattern without a match, and UsageError.
    """
    if follow and not given:
        raise UsageError("--follow: no input is named that could grow: name a file, or leave --follow out")
    paths: list[str] = []
    for name in given:
        paths += _files_of(name) if is_pattern(name) else [name]
    if paths.count(STDIN) > 1:
        raise UsageError("standard input is named twice: it can be read only once: leave one - out")
    if follow and (paths[-1] == STDIN or scheme_of(paths[-1])):
        raise UsageError(
            f"--follow: {shown_input(paths[-1])} cannot be followed: name a file as the last input, or leave --follow "
            "out (a pipe is read until its writer closes it)"
        )
    return paths


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern would also find this file, which need not exist yet."""
    if not is_pattern(pattern):
        return False
    folder, name = os.path.split(os.path.abspath(path))
    pattern_folder, pattern_name = os.path.split(os.path.abspath(pattern))
    return _fits(name, pattern_name) and _fits(folder, pattern_folder)


def is_pattern(name: str) -> bool:
    """Return whether a name stands for the files that match it: it has `*`, `?` or `[`, and no file has this name."""
    return name != STDIN and not scheme_of(name) and glob.has_magic(name) and not os.path.lexists(name)


def _files_of(pattern: str) -> list[str]:
    found = sorted(path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    if not found:
        raise InputMissingError(
            f"{pattern}: no such file, nor one that matches it as a pattern: name an existing JSONL file"
        )
    return found


def _fits(path: str, pattern: str) -> bool:
    """Compare part by part, since `*` does not match a slash."""
    parts, patterns = path.split(os.sep), pattern.split(os.sep)
    if len(parts) != len(patterns):
        return False
    return all(fnmatch.fnmatchcase(part, each) for part, each in zip(parts, patterns, strict=True))
