"""A channel for tests, which needs a task for every send: a test says what `send` does."""

from collections.abc import Callable

from llmblast.records import Reply, Request
from llmblast.sending import Leave, leave_now


class TaskChannel:
    """Sends nothing by itself."""

    is_busy = False

    def __init__(self) -> None:
        self.leave: Leave = leave_now
        self.on_late: Callable[[Request, bool], None] = lambda request, is_fresh: None
        self.on_reply: Callable[[Request, Reply], None] = lambda request, reply: None

    def start(self, request: Request) -> bool:
        return False

    async def send(self, request: Request) -> Reply:
        raise AssertionError("the test did not expect this send")

    def set_key(self, key: str) -> None: ...

    def abandon(self) -> None: ...

    async def warm_up(self, connections: int = 1) -> Reply | None: ...

    def sweep(self, now: float) -> None: ...

    async def close(self) -> None: ...
