import asyncio

import llmblast


async def main() -> None:
    prompts = [f"Name a town in country {n}." for n in range(100)]
    async for result in llmblast.stream(prompts, endpoints=["mock:"], rps=50, model="my-model"):
        print(result.index, result.response if result.ok else f"{result.code}: {result.error}")


asyncio.run(main())
