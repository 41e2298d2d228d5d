"""A scriptable provider on loopback: a test writes one function from a request to a reply.

It runs on a thread and speaks plain HTTP/1.1, so that replies can be anything that a provider may send.
"""

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its place among all that came, from 1; seconds since the server started; its text, model
    and service tier."""

    n: int
    at_s: float
    text: str
    model: str | None
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """One reply, sent after `after_s` seconds."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0


Script = Callable[[Asked], Said]


def answer(text: str = "fine", after_s: float = 0.0) -> Said:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    body = {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }
    return Said(200, body, after_s=after_s)


def error(
    status: int, message: str, headers: Mapping[str, str] | None = None, after_s: float = 0.0, **more: object
) -> Said:
    """An error in the shape that most providers share."""
    return Said(status, {"error": {"message": message, **more}}, headers or {}, after_s)


class ScriptedServer:
    """Answers as `script` says, which a test may replace at any time. `asked` are all requests so far."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.url = ""
        self._started_s = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator["ScriptedServer"]:
        """Serve on a thread until the end of the block."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), loop).result(10)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(_close(server), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
                said = self._answer(body)
                if said.after_s:
                    await asyncio.sleep(said.after_s)
                content = json.dumps(said.body).encode()
                headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **said.headers}
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {said.status} X\r\n{lines}\r\n".encode() + content)
                await writer.drain()
        writer.close()

    def _answer(self, body: dict[str, Any]) -> Said:
        text = str(body["messages"][-1]["content"])
        asked = Asked(
            len(self.asked) + 1, time.monotonic() - self._started_s, text, body.get("model"), body.get("service_tier")
        )
        self.asked.append(asked)
        return self.script(asked)


async def _close(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
