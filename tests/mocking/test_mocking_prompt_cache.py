"""The mock's prompt cache: which beginnings count as cached, from when on, and how each API tells them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from llmblast.mocking import prompt_cache
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from tests.conftest import StartMock

LETTERS = "The ships are in the fog. "
LONG = (LETTERS * 1000)[: 4 * 4000]
"""4000 tokens, which are 31 blocks of 128 and a rest."""
CACHED = 31 * 128


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def chat(text: str = "Question?", system: str = LONG, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"model": "m", "messages": messages, **more}


async def usage_of(session: aiohttp.ClientSession, server: MockServer, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(f"{server.url}/chat/completions", json=body) as response:
        usage: dict[str, Any] = (await response.json())["usage"]
        return usage


async def cached(session: aiohttp.ClientSession, server: MockServer, body: dict[str, Any]) -> int:
    usage = await usage_of(session, server, body)
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def settings(**more: Any) -> MockSettings:
    return MockSettings(latency=0, cache=True, **more)


async def test_a_common_beginning_is_cached_in_whole_blocks(session: aiohttp.ClientSession) -> None:
    """From the second request on; a difference in the middle ends it there."""
    async with MockServer(settings()) as server:
        first = await cached(session, server, chat("One?"))
        second = await cached(session, server, chat("Two?"))
        half = await cached(session, server, chat(system=LONG[:8000] + "!" + LONG[8001:]))

    assert (first, second, half) == (0, CACHED, 8000 // 512 * 128)


@pytest.mark.parametrize(
    "other",
    [
        chat(model="other"),
        chat(system="!" + LONG),
        chat(system=LONG[: 4 * 1000]),
        chat(tools=[{"type": "function", "function": {"name": "find"}}]),
        {"model": "m", "messages": [{"role": "user", "content": LONG}]},
    ],
    ids=["model", "first letter", "short", "tools", "role"],
)
async def test_what_is_not_the_same_beginning(session: aiohttp.ClientSession, other: dict[str, Any]) -> None:
    """Another model, say, or one that is too short."""
    async with MockServer(settings()) as server:
        await cached(session, server, chat())

        assert await cached(session, server, other) == 0


async def test_a_beginning_counts_once_its_request_is_answered(session: aiohttp.ClientSession) -> None:
    """Requests that are sent at once gain nothing from each other."""
    async with MockServer(MockSettings(latency=0.3, cache=True)) as server:
        together = await asyncio.gather(*[cached(session, server, chat(f"{number}?")) for number in range(5)])
        after = await cached(session, server, chat())

    assert (together, after) == ([0] * 5, CACHED)


async def test_a_failed_request_caches_nothing(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The next one with the same prompt is the first."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "500"\nsends = 1\n')
    async with MockServer(settings(faults=str(faults))) as server:
        async with session.post(f"{server.url}/chat/completions", json=chat()) as response:
            assert response.status == 500

        assert await cached(session, server, chat()) == 0


async def test_a_beginning_expires_when_it_is_not_used(session: aiohttp.ClientSession) -> None:
    """Each use counts."""
    clock, found = [0.0], []
    async with MockServer(settings(cache_ttl=60), clock=lambda: clock[0]) as server:
        for clock[0] in (100.0, 150.0, 200.0, 261.0):
            found.append(await cached(session, server, chat()))

    assert found == [0, CACHED, CACHED, 0]


async def test_the_cache_is_bounded(session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not used for longest is forgotten first."""
    monkeypatch.setattr(prompt_cache, "MAX_PREFIXES", 31)
    async with MockServer(settings()) as server:
        for letter in "abb":
            await cached(session, server, chat(system=letter + LONG))

        assert await cached(session, server, chat(system="b" + LONG)) == CACHED
        assert await cached(session, server, chat(system="a" + LONG[:8000])) == 0


async def test_the_least_size_can_be_set_and_deepseek_has_members_of_its_own(session: aiohttp.ClientSession) -> None:
    """A hit and a miss make the prompt."""
    async with MockServer(settings(cache_min_tokens=128, cache_style="deepseek")) as server:
        body = chat(system=LONG[:1000])
        await cached(session, server, body)

        usage = await usage_of(session, server, body)

    assert usage["prompt_cache_hit_tokens"] == 128
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]


async def test_without_the_setting_nothing_is_told(session: aiohttp.ClientSession) -> None:
    """As before."""
    async with MockServer(MockSettings(latency=0)) as server:
        for _ in range(2):
            assert "prompt_tokens_details" not in await usage_of(session, server, chat())


def test_openais_client_reads_cached_tokens(start_mock: StartMock) -> None:
    """Of chats, streams and responses."""
    server = start_mock("latency=0&cache=1")
    with openai.OpenAI(api_key="k", base_url=server.url) as client:
        client.chat.completions.create(**chat())
        whole = client.chat.completions.create(**chat("Next?"))
        *_, last = client.chat.completions.create(**chat("Next?"), stream=True, stream_options={"include_usage": True})
        for _ in range(2):
            response = client.responses.create(model="m", instructions=LONG, input="Question?")

    for usage in (whole.usage, last.usage):
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == CACHED
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == CACHED


def test_anthropic_caches_where_it_is_asked_to(start_mock: StartMock) -> None:
    """The first one writes, the others read; what stands behind the mark is plain input."""
    server = start_mock("latency=0&cache=1")
    url = server.url.removesuffix("/v1")

    with anthropic.Anthropic(api_key="k", base_url=url) as client:

        def ask(text: str, **mark: Any) -> anthropic.types.Usage:
            system: Any = [{"type": "text", "text": LONG, **mark}]
            messages: Any = [{"role": "user", "content": text}]
            return client.messages.create(model="m", max_tokens=50, system=system, messages=messages).usage

        plain = [ask("Question?"), ask("Question?")]
        marked = [ask(f"Question {number}?", cache_control={"type": "ephemeral"}) for number in range(2)]
        with client.messages.stream(
            model="m",
            max_tokens=50,
            system=[{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}],
            messages=[{"role": "user", "content": "Question 0?"}],
        ) as stream:
            streamed = stream.get_final_message().usage

    def told(usage: anthropic.types.Usage) -> tuple[int, int | None, int | None]:
        return usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens

    assert [told(usage) for usage in plain] == [(4002, 0, 0), (4002, 0, 0)]
    assert [told(usage) for usage in marked] == [(2, 4000, 0), (2, 0, 4000)]
    assert told(streamed) == (2, 0, 4000)


def test_anthropic_caches_to_the_end_of_a_conversation(start_mock: StartMock) -> None:
    """A request that goes on reads what the one before has written, and adds the rest."""
    server = start_mock("latency=0&cache=1")
    turns: list[Any] = [{"role": "user", "content": LONG}]
    with anthropic.Anthropic(api_key="k", base_url=server.url.removesuffix("/v1")) as client:
        asked: Any = {"model": "m", "max_tokens": 50, "cache_control": {"type": "ephemeral"}}
        client.messages.create(messages=turns, **asked)
        turns += [{"role": "assistant", "content": "Ships."}, {"role": "user", "content": "And then? " * 40}]

        usage = client.messages.create(messages=turns, **asked).usage

    assert usage.cache_read_input_tokens == 4000
    assert usage.cache_creation_input_tokens == 101
    assert usage.input_tokens == 0


def test_gemini_tells_cached_tokens(start_mock: StartMock) -> None:
    """Only where there are some."""
    server = start_mock("latency=0&cache=1")
    options = types.HttpOptions(base_url=server.url.removesuffix("/v1"))
    with genai.Client(api_key="k", http_options=options) as client:
        config = types.GenerateContentConfig(system_instruction=LONG)
        replies = [client.models.generate_content(model="m", contents="Ships?", config=config) for _ in range(2)]
        *_, last = client.models.generate_content_stream(model="m", contents="Ships?", config=config)

    told = [reply.usage_metadata.cached_content_token_count for reply in [*replies, last] if reply.usage_metadata]
    assert told == [None, CACHED, CACHED]
