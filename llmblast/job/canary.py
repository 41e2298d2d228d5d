"""Canary: end a run whose answers are bad, before they have cost much.

It looks at the last 200 answers, from the first one on: the run ends once more of them are bad than the share allows.
Until 200 have come, as many bad ones are needed as with 200, so that a few at the start end nothing, and a run whose
first answers are all bad ends before the 200th.
"""

from collections import Counter, deque
from enum import Enum

from llmblast.errors import ExitCode
from llmblast.job.decisions import DONE, Decisions, Stop

WINDOW = 200
"""The last answers that are looked at."""


class Quality(Enum):
    """What an answer is good for; the values are for messages."""

    GOOD = "good"
    EMPTY = "empty"
    INVALID = "invalid"
    REFUSED = "refused"
    CUT_OFF = "cut off"


class Canary:
    """Counts the bad answers among the last ones. `share` is the maximum, below 1; `flag` is it in the user's words."""

    def __init__(self, share: float, flag: str) -> None:
        self._max_bad = share * WINDOW
        self._flag = flag
        self._last: deque[Quality] = deque(maxlen=WINDOW)
        self._first_bad = 0
        self._bad = 0

    def add(self, quality: Quality, line: int) -> Decisions:
        """Count an answer to a line; stop the run where too many of the last ones are bad."""
        if len(self._last) == WINDOW and self._last[0] is not Quality.GOOD:
            self._bad -= 1
        self._last.append(quality)
        if quality is Quality.GOOD:
            return DONE
        self._first_bad = self._first_bad or line
        self._bad += 1
        return (Stop(ExitCode.GAVE_UP, self._in_words()),) if self._bad > self._max_bad else DONE

    def _in_words(self) -> str:
        counts = Counter(self._last)
        kinds = [f"{counts[kind]} {kind.value}" for kind in Quality if counts[kind] and kind is not Quality.GOOD]
        return (
            f"{self._bad} of the last {len(self._last)} answers are bad ({', '.join(kinds)}), more than "
            f"--stop-if-bad {self._flag} of {WINDOW}; the first one is that to line {self._first_bad}: "
            "check the model, the prompt and max_tokens"
        )
