"""The event loop: uvloop where the platform has it, asyncio's own elsewhere."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Runs a coroutine on a new loop until it is done."""
    try:
        import uvloop  # noqa: PLC0415 -- not on every platform
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
