"""Keys are renewed while a run sends: at an interval, and whatever goes wrong with that is told once."""

import asyncio
from itertools import count
from pathlib import Path

from llmblast.endpoint_settings import EndpointSettings
from llmblast.job.key_refresh import refresh_regularly, renew_key
from tests.openai_provider import EndpointKey
from tests.task_channel import TaskChannel


class KeyChannel(TaskChannel):
    """Keeps the keys that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def set_key(self, key: str) -> None:
        self.keys.append(key)


class Sleep:
    """Sleeps until a test lets it wake up."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[float] = asyncio.Queue()
        self._wake = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self._begun.put_nowait(seconds)
        await self._wake.wait()
        self._wake.clear()

    async def begin(self) -> float:
        """Waits for the next sleep and returns its length."""
        return await self._begun.get()

    async def end(self) -> None:
        """Ends the present sleep and waits for the next one."""
        self._wake.set()
        await self.begin()


def a_key(path: Path, text: str) -> EndpointKey:
    path.write_text(text)
    ticks = count(100)
    endpoint = EndpointSettings(url="https://gpu.example/v1", name="gpu1", key_file=str(path))
    return EndpointKey(endpoint, {}, lambda: float(next(ticks)))


async def test_a_renewed_key_is_sent_with(tmp_path: Path) -> None:
    """Where there is none, the channel keeps what it has."""
    path, channel = tmp_path / "key", KeyChannel()
    key = a_key(path, "first-key")
    path.write_text("second-key")
    is_renewed = await renew_key(key, channel)
    path.unlink()

    assert is_renewed
    assert not await renew_key(key, channel)
    assert (channel.keys, key.value, key.since_s) == (["second-key"], "second-key", 101.0)


async def test_a_key_is_renewed_at_an_interval(tmp_path: Path) -> None:
    """Of several failures in a row the first is told, and the next interval is the next try; it ends when cancelled."""
    path, channel, sleep = tmp_path / "key", KeyChannel(), Sleep()
    notices: list[str] = []
    key = a_key(path, "key-0")
    task = asyncio.create_task(refresh_regularly(key, channel, 60.0, sleep, notices.append))
    interval_s = await sleep.begin()
    told: list[int] = []

    for text in ("key-1", "", "", "key-2", ""):
        path.write_text(text)
        await sleep.end()
        told.append(len(notices))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert interval_s == 60.0
    assert channel.keys == ["key-1", "key-2"]
    assert told == [0, 1, 1, 1, 2]
    assert notices[0] == (
        f"endpoint gpu1: the API key is missing: the file {path} is empty: write the key into it; "
        "the present key stays in use, next try in 60 s"
    )
    assert task.cancelled()
