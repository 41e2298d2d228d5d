"""Shutdown signals: the first one drains the run, the second aborts requests in flight, the third exits at once.

SIGINT, SIGTERM and SIGHUP mean the same. A signal that the parent process ignores, as `nohup` and shells do for
background jobs, stays ignored.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from llmblast.errors import ExitCode

if TYPE_CHECKING:
    import asyncio

EXIT_OF_SIGNAL: Mapping[signal.Signals, ExitCode] = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HUNG_UP,
}
DUPLICATE_S = 1.0
"""A SIGHUP this soon after another signal is a duplicate: a closed terminal sends one from the kernel and one from its
shell, systemd one after its SIGTERM. It must not abort requests that may be billed."""

_ASKS_FOR_STATUS = frozenset(
    getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)
)  # SIGINFO is Ctrl-T on BSD and macOS


class ShutdownStage(Enum):
    """What the run has to do after the signals so far."""

    DRAIN = auto()
    """Send nothing more, let the requests in flight finish."""
    ABORT = auto()
    """Abort the requests in flight, write the replies that have arrived."""
    EXIT = auto()
    """Exit at once, even if a write or a close hangs."""


class ShutdownSignals:
    """Count the shutdown signals."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stages = iter(ShutdownStage)
        self._last_s: float | None = None

    def on_signal(self, number: signal.Signals) -> ShutdownStage | None:
        """Return the stage that this signal starts; None for a duplicate of the signal before."""
        now = self._clock()
        before, self._last_s = self._last_s, now
        if number is signal.SIGHUP and before is not None and now - before < DUPLICATE_S:
            return None
        return next(self._stages, ShutdownStage.EXIT)


def hold_status_requests() -> None:
    """Block SIGUSR1 until a run handles it: its default action would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKS_FOR_STATUS)


@contextlib.contextmanager
def listening(
    loop: "asyncio.AbstractEventLoop", on_end: Callable[[signal.Signals], None], on_status: Callable[[], None]
) -> Iterator[None]:
    """Call `on_end` for the signals in EXIT_OF_SIGNAL and `on_status` for status requests, on the loop.

    Afterwards the former have their default action again, without a traceback, and the latter are ignored.
    """
    ends = [number for number in EXIT_OF_SIGNAL if signal.getsignal(number) is not signal.SIG_IGN]
    for number in ends:
        loop.add_signal_handler(number, on_end, number)
    for number in _ASKS_FOR_STATUS:
        loop.add_signal_handler(number, on_status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKS_FOR_STATUS)
    try:
        yield
    finally:
        for number in _ASKS_FOR_STATUS:
            signal.signal(number, signal.SIG_IGN)  # removing its handler would have it end the process
        hold_status_requests()
        for number in ends:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
