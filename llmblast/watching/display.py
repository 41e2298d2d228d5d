"""Display: the methods of every progress display."""

from typing import Protocol

REFRESH_INTERVAL_S = 0.25


class Display(Protocol):
    """Show how far the run is: `start`, then `tick` every `interval_s` seconds, then `stop`, in any case.

    Each of them raises OSError when the stream is gone.
    """

    @property
    def interval_s(self) -> float | None:
        """Seconds between ticks; None for no ticks."""
        ...

    def start(self) -> None:
        """Show the display."""
        ...

    def tick(self) -> None:
        """Show the present state."""
        ...

    def stop(self) -> None:
        """Remove the display."""
        ...


class NoDisplay:
    """Show nothing."""

    interval_s = None

    def start(self) -> None:
        """Do nothing."""

    tick = start
    stop = start
