"""The usual script, which `scripts/bench usual` measures: a semaphore around `ClientSession.post`, one task a line."""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp

IN_FLIGHT = 256


async def answer_all(prompts: Path, url: str, save_path: Path) -> None:
    """A record a reply, in the order in which they come."""
    slots = asyncio.Semaphore(IN_FLIGHT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:
        with prompts.open() as lines, save_path.open("w") as save:

            async def answer(line: str) -> None:
                row = json.loads(line)
                body = {"model": "mock", "messages": [{"role": "user", "content": row["input"]}]}
                async with slots, session.post(f"{url}/chat/completions", json=body) as response:
                    reply = await response.json()
                row["response"] = reply["choices"][0]["message"]["content"]
                save.write(json.dumps(row) + "\n")

            await asyncio.gather(*(answer(line) for line in lines))


if __name__ == "__main__":
    asyncio.run(answer_all(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[1]).with_name("usual.jsonl")))
