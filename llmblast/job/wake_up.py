"""Wake-up: the engine's one timer, precise to some microseconds where a rate has to be kept evenly.

An event loop's own timers are up to a millisecond late, which is 20 % of the 5 ms between two requests at 200 a second.
Linux has timers that the loop can watch like a socket (timerfd_create(2)), and which are 0.03 to 0.6 ms late, on a
virtual machine most of all. So one of these wakes the loop as much earlier as most of its wake-ups are late, and the
rest is waited for in place.
"""

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable

_MIN_FINAL_WAIT_S = 0.00012
_MAX_FINAL_WAIT_S = 0.0008
"""Waited for in place, at least and at most: as much as most wake-ups are late. At 200 a second, and where wake-ups are
half a millisecond late, this costs 3 % of a core and uses 3 % more of the rate."""
_GAIN = 1 / 16
"""Weight of the last wake-up in the average lateness and its deviation."""
_DEVIATIONS = 2.0
_MIN_PRECISE_S = 0.0004
"""Shorter waits are the loop's: they begin where something else has woken it just before."""


class WakeUp:
    """Calls `on_wake` at the moment that was set last."""

    def __init__(self, on_wake: Callable[[], None], clock: Callable[[], float], *, is_precise: bool = False) -> None:
        self._on_wake = on_wake
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._at = math.inf
        self._handle: asyncio.TimerHandle | None = None
        self._final_wait_s = _MIN_FINAL_WAIT_S
        self._late_s = 0.0
        self._deviation_s = _MIN_FINAL_WAIT_S / _DEVIATIONS
        self._kernel_timer = _KernelTimer.create(self._loop, self._on_early) if is_precise else None

    def set(self, at: float, now: float) -> None:
        """Wake at `at`, infinity for never, instead of the moment that was set before."""
        if at == self._at:
            return
        self._at = at
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        wait_s = max(at - now, 0.0)
        is_precise = self._kernel_timer is not None and _MIN_PRECISE_S < wait_s < math.inf
        if self._kernel_timer is not None:
            self._kernel_timer.set(wait_s - self._final_wait_s if is_precise else 0.0)
        if wait_s < math.inf and not is_precise:
            delay_ms = math.ceil(wait_s * 1000)  # the loop's resolution: too early would only mean waking twice
            self._handle = self._loop.call_later(delay_ms / 1000, self._wake)

    def bring_forward(self, at: float, now: float) -> None:
        """Wake at `at`, if that is earlier than the moment that was set."""
        if at < self._at:
            self.set(at, now)

    def close(self) -> None:
        """Cancel the wake-up."""
        self.set(math.inf, 0.0)
        if self._kernel_timer is not None:
            self._kernel_timer.close()
            self._kernel_timer = None

    def _on_early(self) -> None:
        if self._at < math.inf:
            self._learn(self._clock() - (self._at - self._final_wait_s))
        given_up_s = time.monotonic() + 2 * _MAX_FINAL_WAIT_S  # a test's clock may stand still
        while self._clock() < self._at and time.monotonic() < given_up_s:
            pass
        self._wake()

    def _learn(self, late_s: float) -> None:
        """Learn how late wake-ups are: the average and twice the average deviation, as for timeouts in RFC 6298."""
        late_s = min(max(late_s, 0.0), _MAX_FINAL_WAIT_S)
        self._deviation_s += _GAIN * (abs(late_s - self._late_s) - self._deviation_s)
        self._late_s += _GAIN * (late_s - self._late_s)
        wait_s = self._late_s + _DEVIATIONS * self._deviation_s
        self._final_wait_s = min(max(wait_s, _MIN_FINAL_WAIT_S), _MAX_FINAL_WAIT_S)

    def _wake(self) -> None:
        self._handle, self._at = None, math.inf
        self._on_wake()


class _KernelTimer:
    """One timerfd. It counts the seconds of the monotonic clock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        arm: Callable[[float], None],
        on_due: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_due = on_due
        self._fd = fd
        self._arm = arm
        self._is_armed = False
        loop.add_reader(fd, self._on_readable)

    @classmethod
    def create(cls, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> "_KernelTimer | None":
        """Return a timer that calls `on_due` on the loop; None where the system has none."""
        if not sys.platform.startswith("linux"):
            return None
        try:
            fd, arm = _open_timer()
        except (AttributeError, ImportError, OSError):  # an old libc, no ctypes, or no file left
            return None
        return cls(loop, fd, arm, on_due)

    def set(self, wait_s: float) -> None:
        """Be due in that time; 0 is never."""
        if wait_s or self._is_armed:
            self._arm(wait_s)
            self._is_armed = wait_s > 0

    def close(self) -> None:
        """Close the file."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _on_readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew in this turn of the loop
            return
        self._is_armed = False
        self._on_due()


def _open_timer() -> tuple[int, Callable[[float], None]]:
    """Return a timerfd on the monotonic clock, and a function that sets its seconds."""
    if sys.version_info >= (3, 13):
        fd = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

        def arm(wait_s: float) -> None:
            os.timerfd_settime(fd, initial=wait_s)

        return fd, arm
    return _open_timer_of_libc()


def _open_timer_of_libc() -> tuple[int, Callable[[float], None]]:
    import ctypes  # noqa: PLC0415 -- 4 ms that a run without a rate does without

    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    spec = (
        ctypes.c_long * 4
    )()  # struct itimerspec: the interval, which stays 0, and the time, as seconds, nanoseconds
    settime = libc.timerfd_settime

    def arm(wait_s: float) -> None:
        spec[2] = int(wait_s)
        spec[3] = int(wait_s % 1.0 * 1e9)
        settime(fd, 0, spec, None)

    return fd, arm
