"""Signals: which ones a run listens to, and what the first, the second and the third of them ask for.

Ctrl-C, `kill` and a closed terminal are one wish said in three ways. Those that whoever started us has switched off, as
`nohup` does and shells for background jobs, stay switched off.
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
SAME_WISH_S = 1.0
"""A hang-up this soon after another signal says nothing new: a closed terminal sends one by the kernel and one by its
shell, systemd one after its SIGTERM. Taken for the second wish, it would abandon what has been paid for."""

_ASKS_FOR_STATUS = frozenset(
    getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)
)  # SIGINFO is Ctrl-T on BSD and macOS


class Wish(Enum):
    """What the signals so far add up to."""

    DRAIN = auto()
    """Send nothing more, let what is in flight finish."""
    CUT_SHORT = auto()
    """Abandon what is in flight, write what has come back."""
    EXIT = auto()
    """End at once: what remains to be done hangs."""


class Wishes:
    """Counts the signals that ask for an end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._steps = iter(Wish)
        self._last_s: float | None = None

    def heard(self, number: signal.Signals) -> Wish | None:
        """What this signal asks for; None where it belongs to the one before it."""
        now = self._clock()
        before, self._last_s = self._last_s, now
        if number is signal.SIGHUP and before is not None and now - before < SAME_WISH_S:
            return None
        return next(self._steps, Wish.EXIT)


def hold_status_requests() -> None:
    """Lets SIGUSR1 wait until a run listens: it would end the process, and whoever asks how far it is means no harm."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKS_FOR_STATUS)


@contextlib.contextmanager
def listening(
    loop: "asyncio.AbstractEventLoop", on_end: Callable[[signal.Signals], None], on_status: Callable[[], None]
) -> Iterator[None]:
    """Calls back on the loop: `on_end` for the signals in EXIT_OF_SIGNAL, `on_status` for those that only ask.

    Afterwards the former end the process as they end any other, without a traceback, and the latter do nothing.
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
