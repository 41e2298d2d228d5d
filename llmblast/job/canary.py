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
MAX_NAMED = 5
"""Endpoints that the reason names."""
MIN_ROW = 10
"""Bad answers in a row that are enough where all endpoints count as failing."""


class Quality(Enum):
    """Quality of an answer; the values are for messages."""

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
        self._last: deque[tuple[Quality, str]] = deque(maxlen=WINDOW)
        self._first_bad = 0
        self._bad = 0
        self._row = 0

    def add(self, quality: Quality, line: int, endpoint: str) -> Decisions:
        """Count an answer of an endpoint to a line; stop the run where too many of the last ones are bad."""
        if len(self._last) == WINDOW and self._last[0][0] is not Quality.GOOD:
            self._bad -= 1
        self._last.append((quality, endpoint))
        if quality is Quality.GOOD:
            self._row = 0
            return DONE
        self._first_bad = self._first_bad or line
        self._bad += 1
        self._row += 1
        return self._stop(f"more than --stop-if-bad {self._flag} of {WINDOW}") if self._bad > self._max_bad else DONE

    def on_outage(self) -> Decisions:
        """Stop a run in which nothing but bad answers comes from any endpoint: only single requests probe these then,
        and the 200th answer would take hours.
        """
        return self._stop(f"the last {self._row} in a row, from all endpoints") if self._row >= MIN_ROW else DONE

    def _stop(self, why: str) -> Decisions:
        counts = Counter(quality for quality, _ in self._last)
        kinds = [f"{counts[kind]} {kind.value}" for kind in Quality if counts[kind] and kind is not Quality.GOOD]
        reason = (
            f"{self._bad} of the last {len(self._last)} answers are bad ({', '.join(kinds)}), {why}"
            f"{self._by_endpoint()}; the first one is that to line {self._first_bad}: "
            "check the model, the prompt and max_tokens"
        )
        return (Stop(ExitCode.GAVE_UP, reason),)

    def _by_endpoint(self) -> str:
        """Return how many answers of each endpoint are bad, where several have answered: only one may be to blame."""
        answered = Counter(endpoint for _, endpoint in self._last)
        if len(answered) < 2:
            return ""
        bad = Counter(endpoint for quality, endpoint in self._last if quality is not Quality.GOOD)
        worst_first = sorted(answered, key=lambda endpoint: bad[endpoint] / answered[endpoint], reverse=True)
        return "".join(f"; {endpoint}: {bad[endpoint]} of {answered[endpoint]}" for endpoint in worst_first[:MAX_NAMED])
