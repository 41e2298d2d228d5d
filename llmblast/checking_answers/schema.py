"""JSON Schema: an answer has to be a JSON value that fits a schema.

jsonschema-rs compiles the schema once, by the draft that its `$schema` names, else 2020-12. Nothing is loaded from
elsewhere: a `$ref` to another file or host is an error. A pattern with look-around or back-references may backtrack, up
to a limit; all others take linear time.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson

from llmblast.checking_answers.answer_text import AnswerText
from llmblast.checking_answers.engine import load_engine
from llmblast.errors import UsageError
from llmblast.settings import Settings

MAX_PROBLEMS = 5
"""Problems of one answer that are named."""
MAX_PROBLEM_CHARACTERS = 200
_FLAG = "--schema"
_TOO_DEEP = "the JSON is nested too deeply"


class ExpectSchema:
    """The check of `--schema`."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        engine = load_engine(_FLAG)
        self._error: type[Exception] = engine.ValidationError
        try:
            self._validator = engine.validator_for(dict(schema), offline=True)
        except self._error as error:
            raise UsageError(f"{_FLAG}: is not a valid JSON Schema: {_shown(error)}: correct the schema") from None
        except (ValueError, OverflowError) as error:
            raise UsageError(
                f"{_FLAG}: cannot be read: {str(error)[:MAX_PROBLEM_CHARACTERS]}: correct the schema"
            ) from None

    @classmethod
    def of(cls, settings: Settings) -> "ExpectSchema | None":
        schema = read_schema(settings).schema
        return cls(schema) if isinstance(schema, Mapping) else None

    def problem_in(self, answer: AnswerText) -> str | None:
        value, problem = answer.read_json()
        if problem is not None:
            return problem
        try:
            if self._validator.is_valid(value):
                return None
            problems = [_shown(error) for error in islice(self._validator.iter_errors(value), MAX_PROBLEMS)]
        except ValueError:
            return _TOO_DEEP
        return f"the JSON does not fit the schema: {'; '.join(problems)}"


def read_schema(settings: Settings) -> Settings:
    """Return the settings with the schema itself in the place of its file. Raises UsageError."""
    path = settings.schema
    if path is None or isinstance(path, Mapping):
        return settings
    try:
        with open(path, "rb") as file:
            schema = orjson.loads(file.read())
    except OSError as error:
        raise UsageError(f"{_FLAG} {path}: cannot be read: {error.strerror}: name a file with a JSON Schema") from None
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{_FLAG} {path}: is not JSON: {error}: correct the file") from None
    if not isinstance(schema, dict):
        raise UsageError(f'{_FLAG} {path}: is not a JSON object: write a schema such as {{"type": "object"}}')
    return replace(settings, schema=schema)


def _shown(error: Any) -> str:
    """Return message and place of an error of the validator."""
    message = str(error.message)
    if len(message) > MAX_PROBLEM_CHARACTERS:
        message = f"{message[: MAX_PROBLEM_CHARACTERS // 2]} ... {message[-MAX_PROBLEM_CHARACTERS // 2 :]}"
    place = "/".join(str(part) for part in error.instance_path)
    return f"at {place}: {message}" if place else message
