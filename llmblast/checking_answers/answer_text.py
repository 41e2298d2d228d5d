"""Text of an answer, and the JSON value in it, which is parsed once for all checks."""

import orjson

_FENCE = "```"
_BLANK = " \t\r\n\ufeff"


class AnswerText:
    """The text as the model wrote it. `parsed` are the bytes of its JSON value, once a check has asked for the value.

    A value may stand in a block of code, with words around that: models add both unasked.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.parsed: bytes | None = None
        self._value: object = None
        self._problem: str | None = None

    def read_json(self) -> tuple[object, str | None]:
        """Return the JSON value, and why there is none if there is none."""
        if self.parsed is None and self._problem is None:
            self._parse()
        return self._value, self._problem

    def _parse(self) -> None:
        whole = self.text.strip(_BLANK)
        if not whole:
            self._problem = "the answer is empty, not JSON"
            return
        error = self._try(whole)
        if error is None:
            return
        fenced = _in_fence(whole)
        if fenced is not None:
            error = self._try(fenced)
        if error is not None:
            self._problem = f"the answer is not JSON: {error}"

    def _try(self, text: str) -> orjson.JSONDecodeError | None:
        data = text.encode("utf-8", "replace")
        try:
            self._value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return error
        self.parsed = data
        return None


def _in_fence(text: str) -> str | None:
    """Return the content of a block of code, from the first fence to the last one; None without a fence.

    An answer of two blocks is no JSON with what is between them. A block that has no end goes to the end of the text.
    """
    start = text.find(_FENCE)
    if start < 0:
        return None
    end = text.rfind(_FENCE)
    inside = text[start + len(_FENCE) : end if end > start else None]
    first_line, newline, rest = inside.partition("\n")
    if newline and first_line.strip(_BLANK).isalnum():  # the language, such as json
        inside = rest
    return inside.removeprefix("json").strip(_BLANK)
