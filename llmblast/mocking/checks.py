"""Checks of single parameters: each returns nothing, or raises BadRequestError in OpenAI's words."""

from collections.abc import Callable, Sequence
from typing import Any

from llmblast.mocking.error_replies import BadRequestError, invalid_choice, invalid_type, unsupported

Check = Callable[[Any, str], None]
"""Takes a value that is not null, and the parameter's name."""


def anything(value: object, name: str) -> None:
    """Accept every value: the parameter is checked where it is read."""


def not_supported(value: object, name: str) -> None:
    """Reject every value that asks for something; false and empty ones do not."""
    if value:
        raise unsupported(name)


def boolean(value: object, name: str) -> None:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise invalid_type(name, "a boolean", value)


def text(value: object, name: str) -> None:
    """Accept every text."""
    if not isinstance(value, str):
        raise invalid_type(name, "a string", value)


def integer(low: int, high: int | None = None) -> Check:
    """Return the check for integers from `low` to `high`."""

    def check(value: object, name: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid_type(name, "an integer", value)
        _check_range(value, name, "integer", low, high)

    return check


def decimal(low: float, high: float) -> Check:
    """Return the check for numbers from `low` to `high`."""

    def check(value: object, name: str) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise invalid_type(name, "a decimal", value)
        _check_range(value, name, "decimal", low, high)

    return check


def one_of(*choices: str) -> Check:
    """Return the check for one of some words."""

    def check(value: object, name: str) -> None:
        text(value, name)
        if value not in choices:
            raise invalid_choice(name, value, choices)

    return check


def texts(most: int) -> Check:
    """Return the check for one text, or a list of `most` at most."""

    def check(value: object, name: str) -> None:
        if isinstance(value, str):
            return
        if not isinstance(value, list):
            raise invalid_type(name, "a string or an array of strings", value)
        check_length(value, name, most)
        for index, entry in enumerate(value):
            text(entry, f"{name}[{index}]")

    return check


def check_length(value: Sequence[object], name: str, most: int) -> None:
    """Raise BadRequestError for a list that is too long."""
    if len(value) > most:
        raise BadRequestError(
            f"Invalid '{name}': array too long. Expected an array with maximum length {most}, "
            f"but got an array with length {len(value)} instead.",
            name,
            "array_above_max_length",
        )


def metadata(value: object, name: str) -> None:
    """Accept 16 pairs of texts at most, as the API does."""
    if not isinstance(value, dict):
        raise invalid_type(name, "an object", value)
    if len(value) > 16:
        message = f"Invalid '{name}': too many properties. Expected at most 16, but got {len(value)} instead."
        raise BadRequestError(message, name, "object_above_max_properties")
    for key, entry in value.items():
        text(entry, f"{name}.{key}")
        for part, most in ((key, 64), (entry, 512)):
            if len(part) > most:
                message = f"Invalid '{name}.{key}': string too long. Expected at most {most}, but got {len(part)}."
                raise BadRequestError(message, f"{name}.{key}", "string_above_max_length")


def _check_range(value: float, name: str, kind: str, low: float, high: float | None) -> None:
    if value < low:
        message = f"{kind} below minimum value. Expected a value >= {low}, but got {value} instead."
        raise BadRequestError(f"Invalid '{name}': {message}", name, f"{kind}_below_min_value")
    if high is not None and value > high:
        message = f"{kind} above maximum value. Expected a value <= {high}, but got {value} instead."
        raise BadRequestError(f"Invalid '{name}': {message}", name, f"{kind}_above_max_value")


def texts_of(value: str | list[str] | None) -> list[str]:
    """Return what `texts` has accepted as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
