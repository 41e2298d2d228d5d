"""A channel for tests, which needs a task for every send: a test says what `send` does."""

from llmblast.models import Attempt, Reply
from llmblast.sending import NO_LISTENER, ChannelListener


class TaskChannel:
    """Sends nothing by itself."""

    is_busy = False

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        return False

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        raise AssertionError("the test did not expect this send")

    def set_key(self, key: str) -> None: ...

    def abandon(self) -> None: ...

    async def warm_up(self, connections: int = 1) -> Reply | None: ...

    def sweep(self, now: float) -> None: ...

    def close_idle(self) -> None: ...

    async def close(self) -> None: ...
