"""Streamed answers: their events, their pace, and that limits, faults and the ledger hold for them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from llmblast.mocking.answers import Answers
from llmblast.mocking.fault_bodies import BODIES
from llmblast.mocking.incident import Incident
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.streaming import pace

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Count the ships in the fog"}]}
STREAM: dict[str, Any] = {**CHAT, "stream": True}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "count", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}
AT_ONCE = MockSettings(latency=0)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def events_of(body: bytes) -> list[Any]:
    """The chunks of a stream, which must end as one."""
    *chunks, end, nothing = body.split(b"\n\n")
    assert (end, nothing) == (b"data: [DONE]", b"")
    assert all(chunk.startswith(b"data: ") for chunk in chunks)
    return [orjson.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


def ask(operation: str = "chat/completions", **asked: Any) -> Any:
    """The chunks of the stream that answers a body made of `asked`, or the reply that is read whole."""
    answer = Answers(AT_ONCE).answer(operation, orjson.dumps(asked))
    assert answer.status == 200, answer.body
    return events_of(answer.body) if answer.events else orjson.loads(answer.body)


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


def test_a_chat_stream_has_role_tokens_and_finish_reason_in_this_order() -> None:
    """One id for all, and the same text as a reply that is read whole."""
    chunks = ask(**STREAM)

    first, *tokens, last = [chunk["choices"][0] for chunk in chunks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert (first["delta"]["role"], first["delta"]["content"], first["finish_reason"]) == ("assistant", "", None)
    assert {(tuple(token["delta"]), token["finish_reason"]) for token in tokens} == {(("content",), None)}
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert text_of(chunks) == ask(**CHAT)["choices"][0]["message"]["content"]
    assert "usage" not in chunks[0]


@pytest.mark.parametrize(("operation", "asked"), [("chat/completions", STREAM), ("completions", {"prompt": "x"})])
def test_usage_comes_at_the_end_where_it_is_asked_for(operation: str, asked: dict[str, Any]) -> None:
    """In a chunk without choices; it is null before."""
    chunks = ask(operation, **{**asked, "stream": True, "stream_options": {"include_usage": True}})
    whole = ask(operation, **{**asked, "stream": False})

    assert {repr(chunk["usage"]) for chunk in chunks[:-1]} == {"None"}
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])


def test_the_choices_of_a_stream_take_turns() -> None:
    """Each has its own role, text and finish reason."""
    chunks = ask(**STREAM, n=2)
    whole = ask(**CHAT, n=2)

    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order[:4] == [0, 1, 0, 1]
    assert [text_of(chunks, index) for index in (0, 1)] == [choice["message"]["content"] for choice in whole["choices"]]
    assert sum(chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks) == 2


def test_a_completion_stream_has_a_choice_for_each_prompt() -> None:
    """Texts are those of a reply that is read whole, log probabilities with them."""
    asked: dict[str, Any] = {"prompt": ["ships", "birds"], "max_tokens": 5, "logprobs": 1, "echo": True}
    chunks = ask("completions", **asked, stream=True)
    whole = ask("completions", **asked)

    for index in (0, 1):
        choice = whole["choices"][index]
        parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["index"] == index][:-1]
        assert text_of(chunks, index) == choice["text"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [part[name][0] for part in parts] == choice["logprobs"][name]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_streamed_chat_has_the_log_probabilities_of_one_that_is_read_whole() -> None:
    """Token by token."""
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 5}
    chunks = ask(**STREAM, **asked)
    whole = ask(**CHAT, **asked)

    told = [choice["logprobs"]["content"][0] for chunk in chunks if (choice := chunk["choices"][0])["logprobs"]]
    assert told == whole["choices"][0]["logprobs"]["content"]


def test_a_streamed_call_has_its_name_first_and_then_its_arguments() -> None:
    """Both ways of calling; joined, the arguments are those of a reply that is read whole."""
    asked: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    calls = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in ask(**STREAM, **asked)]
    whole = ask(**CHAT, **asked)["choices"][0]["message"]["tool_calls"][0]
    older = ask(**STREAM, functions=[TOOL["function"]], function_call={"name": "count"})

    assert (calls[0][0]["function"]["name"], calls[0][0]["type"], calls[0][0]["index"]) == ("count", "function", 0)
    assert "".join(call[0]["function"]["arguments"] for call in calls[:-1]) == whole["function"]["arguments"]
    assert older[0]["choices"][0]["delta"]["function_call"] == {"name": "count", "arguments": ""}
    assert older[-1]["choices"][0]["finish_reason"] == "function_call"


@pytest.mark.parametrize("total_s", [0.0, 0.004, 0.02, 3.0])
def test_events_are_spread_over_the_time(total_s: float) -> None:
    """None is lost, the pauses make up the whole, and none is shorter than a loop can keep."""
    events = [b"%d;" % number for number in range(30)]

    steps = list(pace(events, total_s))

    pauses = [step for step in steps if isinstance(step, float)]
    assert b"".join(step for step in steps if isinstance(step, bytes)) == b"".join(events)
    assert isinstance(steps[0], bytes)
    assert isinstance(steps[-1], bytes)
    assert sum(pauses) == pytest.approx(total_s if total_s >= 0.005 else 0)
    assert min(pauses, default=1) >= 0.005


async def test_a_stream_goes_over_the_wire_as_one(session: aiohttp.ClientSession) -> None:
    """By its media type, with the headers of every reply, and in several pieces."""
    async with (
        MockServer(MockSettings(latency=0.1)) as server,
        session.post(f"{server.url}/chat/completions", json=STREAM) as response,
    ):
        pieces = [piece async for piece in response.content.iter_any()]

    assert (response.status, response.content_type) == (200, "text/event-stream")
    assert response.headers["x-request-id"].startswith("req_")
    assert len(pieces) > 2
    assert text_of(events_of(b"".join(pieces))) == ask(**CHAT)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", [b'"stream"', b'"str\\u0065am"', b'"\\u0073tream"'])
async def test_a_stream_is_found_however_its_name_is_written(name: bytes) -> None:
    """On a connection that has carried a plain request, and carries another one afterwards."""
    plain = orjson.dumps(CHAT)
    streamed = plain[:-1] + b"," + name + b":true}"
    async with MockServer(AT_ONCE) as server:
        reader, writer = await asyncio.open_connection(*server.url.split("/")[2].split(":"))
        for body in (plain, streamed, plain):
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            reply = await reader.readuntil(b"data: [DONE]\n\n" if body is streamed else b'"usage":')
            assert b"HTTP/1.1 200 OK" in reply
            assert (b"Transfer-Encoding: chunked" in reply) is (body is streamed)
        writer.close()
        await writer.wait_closed()

    assert server.received == 3


async def test_the_output_of_a_stream_is_charged_at_its_end(session: aiohttp.ClientSession) -> None:
    """Its own headers come too early to tell it."""
    async with MockServer(MockSettings(latency=0, tpm=1000), clock=lambda: 1000.0) as server:
        async with session.post(f"{server.url}/chat/completions", json=STREAM) as response:
            before = response.headers["x-ratelimit-remaining-tokens"]
            body = await response.read()
        async with session.post(f"{server.url}/chat/completions", data=b"{") as response:
            afterwards = response.headers["x-ratelimit-remaining-tokens"]

    said = len(text_of(events_of(body)).split())
    assert (int(before), int(afterwards)) == (1000 - 6, 1000 - 6 - said)


async def test_limits_and_errors_answer_a_stream_with_json(session: aiohttp.ClientSession) -> None:
    """Before anything is streamed."""
    async with MockServer(MockSettings(latency=0, rps=1), clock=lambda: 1000.0) as server:
        async with session.post(f"{server.url}/chat/completions", json=STREAM) as response:
            await response.read()
        async with session.post(f"{server.url}/chat/completions", json=STREAM) as limited:
            assert (await limited.json())["error"]["code"] == "rate_limit_exceeded"
        async with session.post(f"{server.url}/chat/completions", json={**STREAM, "n": 0}) as refused:
            assert (await refused.json())["error"]["param"] == "n"

    assert (limited.status, refused.status) == (429, 400)


async def test_a_client_that_leaves_in_the_middle_is_noted(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The request ends, and the ledger says that its answer did not arrive."""
    ledger = tmp_path / "ledger.jsonl"
    async with MockServer(MockSettings(latency=0.4, jitter=0, ledger=str(ledger))) as server:
        async with session.post(f"{server.url}/chat/completions", json=STREAM) as response:
            await response.content.readany()
            response.close()
        async with asyncio.timeout(10):
            while server.in_flight:  # noqa: ASYNC110 -- the server has no event for this
                await asyncio.sleep(0.005)

    answered = orjson.loads(ledger.read_bytes().splitlines()[-1])
    assert (answered["event"], answered["status"], answered["complete"]) == ("answered", 200, False)


HOLD_THE_STREAM = ["slow-body", "slow-headers", "chunked-trailers", "gzip", "early-hints", "close-after", "http10"]
BREAK_THE_STREAM = ["truncated", "reset-in-body", "broken-chunk", "closed", "reset", "garbage"]


async def faulty_stream(session: aiohttp.ClientSession, tmp_path: Path, kind: str, **more: Any) -> tuple[str, bytes]:
    """The media type and the body of a stream that a fault befalls."""
    rules = tmp_path / "faults.toml"
    rules.write_text(f'[[fault]]\nkind = "{kind}"\n')
    async with (
        MockServer(MockSettings(latency=0, faults=str(rules))) as server,
        session.post(f"{server.url}/chat/completions", json={**STREAM, **more}) as response,
    ):
        return response.content_type, await response.read()


@pytest.mark.parametrize("kind", HOLD_THE_STREAM)
async def test_odd_http_holds_the_whole_stream(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    """A client that keeps to the protocol gets all of its events."""
    content_type, body = await faulty_stream(session, tmp_path, kind)

    assert content_type == "text/event-stream"
    assert text_of(events_of(body)) == ask(**CHAT)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("kind", BREAK_THE_STREAM)
async def test_broken_http_breaks_the_stream(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    """No client can take it for a whole one."""
    with pytest.raises(aiohttp.ClientError):
        await faulty_stream(session, tmp_path, kind)


async def test_faults_of_bodies_are_those_of_a_stream(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Each is what a whole reply would have, in events."""
    bodies = {
        kind: await faulty_stream(session, tmp_path, kind)
        for kind in ("error-object", "no-choices", "half", "empty", "escapes", "html", "huge-number")
    }

    assert {kind: content_type for kind, (content_type, _) in bodies.items() if kind != "html"} == dict.fromkeys(
        [kind for kind in bodies if kind != "html"], "text/event-stream"
    )
    assert bodies["html"][0] == "text/html"
    assert orjson.loads(bodies["error-object"][1].removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert {len(chunk["choices"]) for chunk in events_of(bodies["no-choices"][1])} == {0}
    assert not bodies["half"][1].endswith(b"[DONE]\n\n")
    assert bodies["empty"][1] == b""
    assert "\x1b[31mred" in text_of(events_of(bodies["escapes"][1]))
    assert text_of(events_of(bodies["escapes"][1])).endswith(ask(**CHAT)["choices"][0]["message"]["content"])
    assert b'"usage":{"prompt_tokens":1' + b"0" * 300 in bodies["huge-number"][1]


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"tools": [TOOL], "tool_choice": "required"}])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_every_fault_of_a_body_befalls_every_form(kind: str, more: dict[str, Any], is_streamed: bool) -> None:
    """Nothing in an answer is in its way."""
    body = orjson.dumps({**CHAT, "stream": is_streamed, **more})
    answer = Answers(AT_ONCE).answer("chat/completions", body)

    assert BODIES[kind](Incident(answer, 1_700_000_000.0)).status == 200
