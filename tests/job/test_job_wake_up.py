"""WakeUp: called once, at the moment that was set last, and never before it."""

import asyncio
import math
import time

import pytest

from llmblast.job.wake_up import WakeUp


class Bell:
    """Notes when it was rung."""

    def __init__(self) -> None:
        self.rung_s: list[float] = []
        self._has_rung = asyncio.Event()

    def ring(self) -> None:
        self.rung_s.append(time.monotonic())
        self._has_rung.set()

    async def heard(self) -> None:
        await asyncio.wait_for(self._has_rung.wait(), 10)
        self._has_rung.clear()


@pytest.fixture(params=[False, True], ids=["coarse", "precise"])
def is_precise(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_it_wakes_once_and_not_before_its_moment(is_precise: bool) -> None:
    """Short waits, long ones, and one that is over already."""
    bell = Bell()
    wake_up = WakeUp(bell.ring, time.monotonic, is_precise=is_precise)
    moments = []
    for wait_s in (0.0001, 0.0003, 0.003, 0.05, -1.0):
        now = time.monotonic()
        moments.append(now + wait_s)
        wake_up.set(now + wait_s, now)
        await bell.heard()
    await asyncio.sleep(0.01)
    wake_up.close()

    assert len(bell.rung_s) == len(moments)
    assert all(rung_s >= moment for rung_s, moment in zip(bell.rung_s, moments, strict=True))


@pytest.mark.parametrize(("first_s", "then_s"), [(0.01, 0.03), (0.03, 0.01), (0.01, 0.0001), (0.0001, 0.01)])
async def test_the_moment_that_was_set_last_counts(is_precise: bool, first_s: float, then_s: float) -> None:
    """Later or earlier than the one before it, by the loop's timer or the kernel's."""
    bell, now = Bell(), time.monotonic()
    wake_up = WakeUp(bell.ring, time.monotonic, is_precise=is_precise)
    wake_up.set(now + first_s, now)
    wake_up.set(now + then_s, now)
    await asyncio.sleep(0.06)
    wake_up.close()

    assert len(bell.rung_s) == 1
    assert bell.rung_s[0] >= now + then_s


async def test_infinity_is_never(is_precise: bool) -> None:
    """What was set before is forgotten."""
    bell, now = Bell(), time.monotonic()
    wake_up = WakeUp(bell.ring, time.monotonic, is_precise=is_precise)
    wake_up.set(now + 0.005, now)
    wake_up.set(math.inf, now)
    await asyncio.sleep(0.02)
    wake_up.close()

    assert bell.rung_s == []


async def test_nobody_is_woken_after_it_was_closed(is_precise: bool) -> None:
    """A run that has ended sends nothing more."""
    bell, now = Bell(), time.monotonic()
    wake_up = WakeUp(bell.ring, time.monotonic, is_precise=is_precise)
    wake_up.set(now + 0.005, now)
    wake_up.close()
    wake_up.close()
    await asyncio.sleep(0.02)

    assert bell.rung_s == []
