import asyncio

import llmblast


async def main() -> None:
    stages = [
        llmblast.Stage("draft", endpoints=["mock:"], rps=200),
        llmblast.Stage("judge", endpoints=["mock:"], prompt="Judge: {response}"),
    ]
    prompts = [f"Name a town in country {n}." for n in range(100)]
    async for result in llmblast.pipeline(prompts, stages=stages, model="my-model"):
        print(result.stage, result.index, result.response if result.ok else result.error)


asyncio.run(main())
