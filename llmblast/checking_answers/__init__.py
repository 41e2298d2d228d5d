"""Checking answers: does an answer have the form that was asked for, and if not, why?

A new check is one class in one file and one line in `CHECKS`. The command is not among them: it takes time, so it runs
apart, for answers that pass all others.
"""

from dataclasses import dataclass
from typing import Protocol

from llmblast.checking_answers.answer_text import AnswerText
from llmblast.checking_answers.command import AnswerCommand
from llmblast.checking_answers.json_value import ExpectJson
from llmblast.checking_answers.pattern import ExpectPattern
from llmblast.checking_answers.schema import ExpectSchema
from llmblast.settings import Settings

__all__ = ["AnswerChecks", "AnswerCommand", "AnswerText", "Finding", "open_checks"]

NO_TEXT = "the answer has no text"


class Check(Protocol):
    """One check that every answer has to pass."""

    @classmethod
    def of(cls, settings: Settings) -> "Check | None":
        """Return the check that the settings ask for, if any. Raises UsageError where it cannot be made."""

    def problem_in(self, answer: AnswerText) -> str | None:
        """Return in a few words, for a person and a model, why the answer does not fit; None where it does."""


CHECKS: tuple[type[Check], ...] = (ExpectJson, ExpectSchema, ExpectPattern)
"""In their order: the first one that an answer does not pass gives the reason."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of the checks: the problem, if there is one, and the JSON value in the answer, if it has to be one."""

    problem: str | None = None
    parsed: bytes | None = None


class AnswerChecks:
    """All checks of a run. `command` is left to the caller, since it has to be awaited."""

    def __init__(self, checks: tuple[Check, ...], command: AnswerCommand | None = None) -> None:
        self._checks = checks
        self.command = command

    def find(self, text: object) -> Finding:
        """Check the text of an answer. Parsing and a schema take some 10 ms for each MB, nothing grows faster."""
        if not isinstance(text, str):
            return Finding(NO_TEXT)
        answer = AnswerText(text)
        for check in self._checks:
            if (problem := check.problem_in(answer)) is not None:
                return Finding(problem)
        return Finding(None, answer.parsed)


def open_checks(settings: Settings) -> AnswerChecks | None:
    """Return the checks that the settings ask for; None where they ask for none. Raises UsageError."""
    made = (check.of(settings) for check in CHECKS)
    checks = tuple(check for check in made if check is not None)
    command = AnswerCommand.of(settings)
    return AnswerChecks(checks, command) if checks or command is not None else None
