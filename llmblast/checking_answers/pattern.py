"""Pattern: an answer has to contain a match of a regular expression.

The whole text is searched; `^` and `$` tie a pattern to its start and end. The regular expressions are those of JSON
Schema, run by Rust's regex crate in linear time, so that no answer makes one slow; the price is that look-around and
back-references are not allowed. jsonschema-rs has that engine, so none needs to be added.
"""

from llmblast.checking_answers.answer_text import AnswerText
from llmblast.checking_answers.engine import load_engine
from llmblast.errors import UsageError
from llmblast.settings import Settings

_FLAG = "--expect-regex"


class ExpectPattern:
    """The check of `--expect-regex`."""

    def __init__(self, pattern: str) -> None:
        engine = load_engine(_FLAG)
        try:
            self._validator = engine.validator_for(
                {"type": "string", "pattern": pattern}, offline=True, pattern_options=engine.RegexOptions()
            )
        except ValueError:
            raise UsageError(
                f"{_FLAG} {pattern!r}: is not a regular expression that takes linear time: correct it "
                "(look-around such as (?=...) and back-references such as \\1 are not allowed)"
            ) from None
        self._problem = f"the answer does not match the regular expression {pattern}"

    @classmethod
    def of(cls, settings: Settings) -> "ExpectPattern | None":
        return None if settings.expect_regex is None else cls(settings.expect_regex)

    def problem_in(self, answer: AnswerText) -> str | None:
        return None if self._validator.is_valid(answer.text) else self._problem
