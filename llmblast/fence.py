"""Fence: keeps a defect in a part that only advises from ending a run.

Advice is what a run can do without: learned limits, hedging, statistics, displays. Where such a part raises, its caller
catches that, takes the part out, and says so to the fence, which reports each part once. On the hot path that is a
plain `try`, which costs nothing in Python 3.11. A part that was switched off does no work any more, or none that
anything depends on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, Exception], None]


class Fence:
    """Passes the first defect of each part on to `report`. Without `report` it raises the defect: tests see it."""

    def __init__(self, report: Report | None = None) -> None:
        self._report = report
        self._parts: set[str] = set()

    def switch_off(self, part: str, error: Exception) -> None:
        """Report that `part`, in words for a person, does no more work because of `error`."""
        if self._report is None:
            raise error
        if part not in self._parts:
            self._parts.add(part)
            self._report(part, error)

    @contextmanager
    def around(self, part: str) -> Iterator[None]:
        """Contain a defect in the body. Not for the hot path: it takes a microsecond."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- whatever it is, the run does not depend on it
            self.switch_off(part, error)
