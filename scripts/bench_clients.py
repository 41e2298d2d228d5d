"""The scripts that people write first, for `scripts/bench usual` and `scripts/bench --against`: one task a line.

`python scripts/bench_clients.py CLIENT INPUT URL OUTPUT CONCURRENCY`; CLIENT is aiohttp or openai. Both send the chat
request of each line of our simple format and append a record as soon as its reply is there.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

Ask = Callable[[str], Awaitable[str]]
"""From a prompt to its answer."""


@asynccontextmanager
async def with_aiohttp(url: str, in_flight: int) -> Any:
    """Post over `aiohttp.ClientSession`."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def ask(prompt: str) -> str:
            body = {"model": "mock", "messages": [{"role": "user", "content": prompt}]}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                reply = await response.json()
            return str(reply["choices"][0]["message"]["content"])

        yield ask


@asynccontextmanager
async def with_openai(url: str, in_flight: int) -> Any:
    """Ask the official client, whose pool has 1,000 connections."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def ask(prompt: str) -> str:
            messages: Any = [{"role": "user", "content": prompt}]
            reply = await client.chat.completions.create(model="mock", messages=messages)
            return str(reply.choices[0].message.content)

        yield ask


CLIENTS: dict[str, Callable[[str, int], AbstractAsyncContextManager[Ask]]] = {
    "aiohttp": with_aiohttp,
    "openai": with_openai,
}


async def answer_all(client: str, prompts: Path, url: str, save_path: Path, in_flight: int) -> None:
    """Write a record for each reply, in the order in which they come."""
    slots = asyncio.Semaphore(in_flight)
    async with CLIENTS[client](url, in_flight) as ask:
        with save_path.open("w") as save:

            async def answer(row: dict[str, Any]) -> None:
                async with slots:
                    row["response"] = await ask(row["input"])
                save.write(json.dumps(row) + "\n")

            await asyncio.gather(*(answer(row) for row in _rows(prompts)))


def _rows(prompts: Path) -> Iterator[dict[str, Any]]:
    with prompts.open() as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    _, name, source, base_url, output, concurrency = sys.argv
    asyncio.run(answer_all(name, Path(source), base_url, Path(output), int(concurrency)))
