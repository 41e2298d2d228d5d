"""Reader watch: notice at once when the reader of a pipe closes it, instead of at the next write."""

import asyncio
from collections.abc import Callable


class ReaderWatch:
    """Call `on_gone` once, on the loop, when the reader of a pipe has closed it."""

    def __init__(self, on_gone: Callable[[], None]) -> None:
        self._on_gone = on_gone
        self._fd: int | None = None

    def start(self, fd: int | None) -> None:
        """Watch the writing end of a pipe; None is no pipe."""
        self._fd = fd
        if fd is not None:
            asyncio.get_running_loop().add_reader(fd, self._on_event)

    def stop(self) -> None:
        """Watch no longer."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = None

    def _on_event(self) -> None:
        self.stop()
        self._on_gone()
