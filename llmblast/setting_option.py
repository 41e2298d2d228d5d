"""Option: how one field of the settings appears on the command line, in `--help`, README and shell completion."""

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")

ENV_PREFIX = "LLMBLAST_"
Group = Literal["Input", "Output", "Answers", "Endpoints", "Limits", "Retries", "Display", "Advanced"]
"""Groups of options in `--help`, in their order."""
_CHOICES = "{choices}"
"""Placeholder in a help text for the values that the field's Literal allows."""


@dataclass(frozen=True, slots=True)
class Option:
    """Names, help text and group of one option.

    The first long name is that of the field, except for `--url`. Names with an underscore come from an older tool: they
    are accepted, but not shown. `metavar` and `shown_default` replace what the field's type and default would show.
    `in_check` tells that `llmblast check` has the option, too.
    """

    names: tuple[str, ...]
    group: Group
    help: str
    metavar: str = ""
    shown_default: str = ""
    in_check: bool = False


def option(
    default: T,
    names: str,
    group: Group,
    help: str,
    *,
    metavar: str = "",
    shown_default: str = "",
    in_check: bool = False,
) -> T:
    """Return a dataclass field with its option; spaces separate the names."""
    metadata = {"option": Option(tuple(names.split()), group, help, metavar, shown_default, in_check)}
    made: Any = field(default_factory=default.copy, metadata=metadata) if isinstance(default, dict) else None
    return made or field(default=default, metadata=metadata)


def options_of(owner: type) -> Mapping[str, tuple[Field[Any], Option]]:
    """Return the fields of a settings class that have an option, with it, by name."""
    return {entry.name: (entry, entry.metadata["option"]) for entry in fields(owner) if "option" in entry.metadata}


def is_shown(name: str) -> bool:
    """Return whether `--help` and README show this name of an option."""
    return "_" not in name


def help_of(entry: Field[Any], option: Option) -> str:
    """Return the help text of an option, with its choices and its default."""
    *others, last = choices_of(entry.type) or ("",)
    text = option.help.replace(_CHOICES, f"{', '.join(others)} or {last}")
    default = option.shown_default
    if not default and isinstance(entry.default, str):
        default = entry.default
    elif isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
        default = f"{entry.default:g}" if isinstance(entry.default, float) else str(entry.default)
    return f"{text} [default: {default}]" if default else text


def variable_of(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return f"{ENV_PREFIX}{name.upper()}"


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Return the values that a field's Literal allows; nothing where its type is no Literal."""
    return next((get_args(part) for part in parts_of(annotation) if get_origin(part) is Literal), ())


def parts_of(annotation: Any) -> Iterator[Any]:
    """Yield an annotation, then all types and metadata that it consists of."""
    yield annotation
    for part in get_args(annotation):
        yield from parts_of(part)
