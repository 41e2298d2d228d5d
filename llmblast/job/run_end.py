"""Run end: why a run stops before all lines are done. The first reason counts; a defect of ours counts more."""

import asyncio
from collections.abc import Callable

from llmblast.errors import ExitCode


class RunEnd:
    """`report` writes a defect down and returns it in words. `stopping` is set once nothing more is sent."""

    def __init__(self, report: Callable[[BaseException], str]) -> None:
        self.exit_code: ExitCode | None = None
        self.reason = ""
        self.defect: BaseException | None = None
        """The first defect in the path of a record."""
        self.stopping = asyncio.Event()
        self._report = report

    def __repr__(self) -> str:
        return f"RunEnd({self.exit_code!r}, {self.reason!r})" if self.exit_code is not None else "RunEnd(not yet)"

    def stop(self, exit_code: ExitCode, reason: str) -> None:
        """Record that the run stops."""
        if self.exit_code is None:
            self.exit_code, self.reason = exit_code, reason
        self.stopping.set()

    def on_defect(self, defect: BaseException) -> None:
        """Report a defect of ours, which stops the run."""
        reason = self._report(defect)
        if self.defect is None:
            self.defect, self.exit_code, self.reason = defect, ExitCode.DEFECT, reason
        self.stopping.set()
