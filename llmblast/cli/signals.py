"""Signals: map the first, second and third signal to the stages of a shutdown, and handle them on the event loop.

Ctrl-C, `kill` and a closed terminal mean the same. Signals that the parent process ignores, as `nohup` does and shells
for background jobs, stay ignored.
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
REPEATED_HANGUP_S = 1.0
"""A SIGHUP this soon after another signal counts as the same one: a closed terminal sends one from the kernel and one
from its shell, systemd one after its SIGTERM. Counted, it would abort requests that are paid for."""

_STATUS_SIGNALS = frozenset(
    getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)
)  # SIGINFO is Ctrl-T on BSD and macOS


class ShutdownStage(Enum):
    """Stage of a shutdown that the signals so far ask for."""

    DRAIN = auto()
    """Send nothing more, let requests in flight finish."""
    ABORT_IN_FLIGHT = auto()
    """Abort requests in flight, write the replies so far."""
    EXIT = auto()
    """Exit at once: the rest of the shutdown hangs."""


class ShutdownSignals:
    """Count the signals that ask for a shutdown."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stages = iter(ShutdownStage)
        self._last_s: float | None = None

    def on_signal(self, number: signal.Signals) -> ShutdownStage | None:
        """Return the stage that this signal asks for; None where it repeats the signal before."""
        now = self._clock()
        last_s, self._last_s = self._last_s, now
        if number is signal.SIGHUP and last_s is not None and now - last_s < REPEATED_HANGUP_S:
            return None
        return next(self._stages, ShutdownStage.EXIT)


def block_status_signals() -> None:
    """Keep SIGUSR1 pending until a run handles it: by default it ends the process, but here it asks for the status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STATUS_SIGNALS)


@contextlib.contextmanager
def handle_signals(
    loop: "asyncio.AbstractEventLoop", on_end: Callable[[signal.Signals], None], on_status: Callable[[], None]
) -> Iterator[None]:
    """Call `on_end` for the signals in EXIT_OF_SIGNAL and `on_status` for status signals, both on the loop.

    Afterwards, the former end the process without a traceback, and the latter do nothing.
    """
    ends = [number for number in EXIT_OF_SIGNAL if signal.getsignal(number) is not signal.SIG_IGN]
    for number in ends:
        loop.add_signal_handler(number, on_end, number)
    for number in _STATUS_SIGNALS:
        loop.add_signal_handler(number, on_status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STATUS_SIGNALS)
    try:
        yield
    finally:
        for number in _STATUS_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # without a handler it would end the process
        block_status_signals()
        for number in ends:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
