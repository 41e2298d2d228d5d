"""Usage errors: word typer's errors in a command line as one sentence, as all errors of llmblast are.

Errors are recognised by their attributes, since the package of their classes differs between versions of typer.
"""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from os.path import exists
from typing import Any

from llmblast.cli.other_tools import advice_for, value_of

COMMANDS = ("run", "check", "convert", "mock", "config")
_QUOTED = re.compile(r"'([^']*)'|\(([^)]*)\)")
_LOOKS_LIKE_A_FILE = re.compile(r"[./\\]|^-$")
_KINDS = {
    "float": "is not a number",
    "float range": "is not a number",
    "integer": "is not a whole number",
    "integer range": "is not a whole number",
    "boolean": "is neither true nor false",
    "bool": "is neither true nor false",
}


def sentence_of(error: Any, words: Sequence[str]) -> str:
    """Return place, cause and fix of an error; `words` are the arguments of the command."""
    message = str(error.format_message()).strip()
    if hasattr(error, "possibilities"):
        return _unknown_option(error, words)
    if getattr(error, "param", None) is not None:
        is_missing = hasattr(error, "param_type")
        return _missing(error) if is_missing else _wrong_value(error.param, message, words)
    if hasattr(error, "option_name"):
        return _misused_option(error, message)
    named = ["".join(found) for found in _QUOTED.findall(message)]
    if message.startswith("No such command") and named:
        return _unknown_command(named[0], error)
    if message.startswith("Got unexpected extra argument") and named:
        return f"{named[-1]}: one argument too many"
    return message.rstrip(".")


def _unknown_option(error: Any, words: Sequence[str]) -> str:
    option = str(error.option_name)
    if not option.startswith("--"):
        return f"{option}: unknown option: see {_help(error)}"
    advice = advice_for(option, words)
    if advice is not None:
        return f"{option}: {advice}"
    command = getattr(getattr(error, "ctx", None), "command", None)
    known = [name for param in getattr(command, "params", ()) for name in (*param.opts, *param.secondary_opts)]
    close = _closest(option.lower().replace("_", "-"), [name for name in known if name.startswith("--")])
    return f"{option}: unknown option{f'; did you mean {close[0]}?' if close else f': see {_help(error)}'}"


def _closest(option: str, known: Sequence[str]) -> Sequence[str]:
    """Return the options closest to a misspelt one, the best first."""
    longer = [name for name in known if option.startswith(f"{name}-") or name.startswith(f"{option}-")]
    return longer or get_close_matches(option, known, n=1, cutoff=0.75)


def _wrong_value(param: Any, message: str, words: Sequence[str]) -> str:
    options = [*param.opts, *param.secondary_opts]
    place = next((name for name in options if name.startswith("--")), options[0])
    what = _KINDS.get(str(getattr(getattr(param, "type", None), "name", "")), "")
    if not what:
        lowered = message.lower()
        known = {"integer": "integer", "number": "float", "float": "float", "boolean": "boolean", "bool": "boolean"}
        what = next((_KINDS[kind] for word, kind in known.items() if word in lowered), "is not allowed")
    value, variable = value_of(options, words), str(getattr(param, "envvar", ""))
    if not value and variable in os.environ:
        place, value = variable, os.environ[variable]
    bounds = [bound for bound in (getattr(param, "min", None), getattr(param, "max", None)) if bound is not None]
    if len(bounds) == 2 and value.lstrip("-").isdecimal():
        what = f"is not allowed: it must be from {bounds[0]} to {bounds[1]}"
    return f"{place}: {f'{value!r} ' if value else ''}{what}"


def _missing(error: Any) -> str:
    return f"{error.param.metavar or error.param.name}: is missing: see {_help(error)}"


def _misused_option(error: Any, message: str) -> str:
    option = str(error.option_name)
    if "does not take a value" in message:
        return f"{option}: takes no value"
    command = getattr(getattr(error, "ctx", None), "command", None)
    params = [param for param in getattr(command, "params", ()) if option in param.opts]
    metavar = getattr(params[0], "metavar", None) if params else None
    return f"{option}: needs a value{f': write {option} {metavar}' if metavar else ''}"


def _unknown_command(name: str, error: Any) -> str:
    if _LOOKS_LIKE_A_FILE.search(name) or exists(name):
        return f"{name}: is not a command: to send a file: llmblast run {name}"
    context = getattr(error, "ctx", None)
    known = list(getattr(getattr(context, "command", None), "commands", COMMANDS))
    close = get_close_matches(name, known, n=1)
    return f"{name}: unknown command{f'; did you mean {close[0]}?' if close else ': write one of ' + ', '.join(known)}"


def _help(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{getattr(context, 'command_path', 'llmblast')} --help"
