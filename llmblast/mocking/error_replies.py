"""Errors in OpenAI's form and wording: the body of a reply, and the exception that ends in one.

Source of form and codes: https://platform.openai.com/docs/guides/error-codes
"""

from collections.abc import Iterable

import orjson

_TYPE_NAMES = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}


class BadRequestError(Exception):
    """The request asks for something impossible or unknown; `param` names what, as in `messages[0].role`."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status

    @property
    def body(self) -> bytes:
        """The reply's body."""
        return error_body(self.message, "invalid_request_error", self.param, self.code)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error in OpenAI's form; `kind` is its `type`."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def missing(name: str) -> BadRequestError:
    """Return the error for a parameter that has to be there."""
    return BadRequestError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def invalid_type(name: str, expected: str, value: object) -> BadRequestError:
    """Return the error for a value of the wrong JSON type; `expected` has its article, such as "a string"."""
    message = f"Invalid type for '{name}': expected {expected}, but got {type_name(value)} instead."
    return BadRequestError(message, name, "invalid_type")


def invalid_choice(name: str, value: object, choices: Iterable[str]) -> BadRequestError:
    """Return the error for a word that is none of the known ones."""
    known = ", ".join(f"'{choice}'" for choice in choices)
    return BadRequestError(f"Invalid value: '{value}'. Supported values are: {known}.", name, "invalid_value")


def unsupported(name: str, what: str | None = None) -> BadRequestError:
    """Return the error for something that OpenAI's API has and the mock does not."""
    message = f"Unsupported parameter: {what or repr(name)} is not supported by the mock provider."
    return BadRequestError(message, name, "unsupported_parameter")


def type_name(value: object) -> str:
    """Return the JSON type of a value with its article."""
    if value is None:
        return "null"
    return _TYPE_NAMES.get(type(value), "an object")
