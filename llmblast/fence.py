"""Fence: keep a run going after a defect in an optional part, and report the defect.

Optional parts are learned limits, hedging, statistics and displays. Where one raises, its caller catches the error,
switches the part off, and tells the fence, which reports each part once. On the hot path that is a plain `try`, which
costs nothing in Python 3.11. Nothing depends on the work of a part that is switched off.
"""

from collections.abc import Callable
from types import TracebackType

Report = Callable[[str, Exception], None]


class Fence:
    """Pass the first defect of each part to `report`. Without `report`, raise it, so that tests fail."""

    def __init__(self, report: Report | None = None) -> None:
        self._report = report
        self._parts: set[str] = set()

    def switch_off(self, part: str, error: Exception) -> None:
        """Report that `part`, named in words for a person, is switched off because of `error`."""
        if self._report is None:
            raise error
        if part not in self._parts:
            self._parts.add(part)
            self._report(part, error)

    def around(self, part: str) -> "_Fenced":
        """Return a context that reports a defect of `part` and suppresses it. Not for the hot path."""
        return _Fenced(self, part)


class _Fenced:
    """Switch a part off where the body of the context raises, and continue after it."""

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
