"""JSON: an answer has to be one JSON value of any kind."""

from llmblast.checking_answers.answer_text import AnswerText
from llmblast.settings import Settings


class ExpectJson:
    """The check of `--expect json`."""

    @classmethod
    def of(cls, settings: Settings) -> "ExpectJson | None":
        return cls() if settings.expect == "json" else None

    def problem_in(self, answer: AnswerText) -> str | None:
        return answer.read_json()[1]
