"""The prompts of completions and the inputs of embeddings: texts, or lists of token ids, one or several.

The mock has no tokenizer, so the text of token ids is their numbers, and each counts as one token.
"""

from typing import NamedTuple

from llmblast.mocking.checks import check_length
from llmblast.mocking.error_replies import BadRequestError, invalid_type, missing
from llmblast.mocking.messages import BYTES_PER_TOKEN

MAX_PROMPTS = 2048
_EXPECTED = "a string, an array of strings, an array of integers, or an array of arrays of integers"


class Prompts(NamedTuple):
    """At least one text, and the tokens of all together."""

    texts: list[str]
    tokens: int


def read_prompts(value: object, name: str) -> Prompts:
    """Return the prompts that a parameter holds. Raises BadRequestError."""
    if isinstance(value, str):
        return Prompts([value], _count([value]))
    if value is None:
        raise missing(name)
    if not isinstance(value, list):
        raise invalid_type(name, _EXPECTED, value)
    if not value:
        message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array."
        raise BadRequestError(message, name, "empty_array")
    if isinstance(value[0], str):
        return _read_texts(value, name)
    if isinstance(value[0], list):
        check_length(value, name, MAX_PROMPTS)
        texts = [_read_ids(ids, f"{name}[{index}]") for index, ids in enumerate(value)]
        return Prompts(texts, sum(map(len, value)))
    return Prompts([_read_ids(value, name)], len(value))


def _read_texts(value: list[object], name: str) -> Prompts:
    check_length(value, name, MAX_PROMPTS)
    texts = [text for text in value if isinstance(text, str)]
    if len(texts) != len(value):
        index = next(index for index, text in enumerate(value) if not isinstance(text, str))
        raise invalid_type(f"{name}[{index}]", "a string", value[index])
    return Prompts(texts, _count(texts))


def _read_ids(value: object, name: str) -> str:
    if not isinstance(value, list):
        raise invalid_type(name, "an array of integers", value)
    if not value:
        raise BadRequestError(f"Invalid '{name}': empty array of token ids.", name, "empty_array")
    for index, number in enumerate(value):
        if not isinstance(number, int) or isinstance(number, bool):
            raise invalid_type(f"{name}[{index}]", "an integer", number)
        if number < 0:
            message = (
                f"Invalid '{name}[{index}]': integer below minimum value. Expected a value >= 0, but got {number}."
            )
            raise BadRequestError(message, f"{name}[{index}]", "integer_below_min_value")
    return " ".join(map(str, value))


def _count(texts: list[str]) -> int:
    return max(1, sum(map(len, texts)) // BYTES_PER_TOKEN)
