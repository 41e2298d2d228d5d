"""Fence: keeps a defect in a part that only advises from ending a run.

Advice is what a run can do without: learned limits, hedging, statistics, displays. Where such a part raises, its caller
catches that, takes the part out, and says so to the fence, which reports each part once. On the hot path that is a
plain `try`, which costs nothing in Python 3.11. A part that was switched off does no work any more, or none that
anything depends on.
"""

from collections.abc import Callable
from types import TracebackType

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

    def around(self, part: str) -> "_Fenced":
        """Return a context in which a defect does no harm. Not for the hot path."""
        return _Fenced(self, part)


class _Fenced:
    """Switches a part off where the body raises, and goes on behind it."""

    def __init__(self, fence: Fence, part: str) -> None:
        self._fence = fence
        self._part = part

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._fence.switch_off(self._part, error)
        return True
