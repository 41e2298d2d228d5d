"""The ledger on disk: what was received and what was fully answered, whoever is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import aiohttp
import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.mocking.server import MockServer, ScriptedReply
from llmblast.mocking.settings import MockSettings

BODY = orjson.dumps({"messages": [{"role": "user", "content": "Count the ships in the fog"}]})


def entries(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def key_of(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def settings(tmp_path: Path, query: str = "latency=0") -> MockSettings:
    return MockSettings.from_query(f"{query}&ledger={tmp_path / 'ledger.jsonl'}")


async def post(server: MockServer, body: bytes = BODY, path: str = "/chat/completions") -> bytes:
    async with aiohttp.ClientSession() as session, session.post(server.url + path, data=body) as response:
        return await response.read()


async def test_a_request_and_its_answer_have_a_line_each(tmp_path: Path) -> None:
    """With the keys of the body and of the text that the client finds."""
    clock = iter((10.0, 10.5))
    async with MockServer(settings(tmp_path), clock=lambda: next(clock)) as server:
        reply = orjson.loads(await post(server))

    text = reply["choices"][0]["message"]["content"].encode()
    assert entries(tmp_path / "ledger.jsonl") == [
        {
            "event": "received",
            "number": 1,
            "at": 10.0,
            "path": "/v1/chat/completions",
            "key": key_of(BODY),
            "fault": None,
        },
        {"event": "answered", "number": 1, "at": 10.5, "status": 200, "complete": True, "text": key_of(text)},
    ]


async def test_what_is_no_answer_has_no_text(tmp_path: Path) -> None:
    """A refusal, a faulty reply, embeddings."""
    async with MockServer(settings(tmp_path, "latency=0&malformed=1")) as server:
        await post(server, b"{")
        await post(server)
    async with MockServer(settings(tmp_path)) as server:
        await post(server, b'{"input":"ships"}', "/embeddings")

    answered = [entry for entry in entries(tmp_path / "ledger.jsonl") if entry["event"] == "answered"]
    assert [(entry["status"], entry["complete"], entry["text"]) for entry in answered] == [
        (400, True, None),
        (200, True, None),
        (200, True, None),
    ]


async def test_the_ledger_names_the_fault(tmp_path: Path) -> None:
    """When the request is received: a black hole has no answer."""
    async with MockServer(settings(tmp_path, "latency=0&errors=1")) as server:
        await post(server)

    assert entries(tmp_path / "ledger.jsonl")[0]["fault"] == "500"


async def test_a_connection_that_breaks_is_answered_but_not_complete(tmp_path: Path) -> None:
    """The server broke it, or the client had gone when the answer was ready."""
    arrived = asyncio.Event()

    def script(index: int, body: bytes) -> ScriptedReply:
        if index == 0:
            return ScriptedReply(break_connection=True)
        arrived.set()
        return ScriptedReply(body=b"x" * 1_000_000, delay_s=0.05)

    async with MockServer(settings(tmp_path), script=script) as server:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(server)
        pending = asyncio.ensure_future(post(server))
        await arrived.wait()
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        async with asyncio.timeout(10):
            while len(entries(tmp_path / "ledger.jsonl")) < 4:  # noqa: ASYNC110 -- a file has no event
                await asyncio.sleep(0.01)

    answered = [entry for entry in entries(tmp_path / "ledger.jsonl") if entry["event"] == "answered"]
    assert [(entry["status"], entry["complete"]) for entry in answered] == [(0, False), (200, False)]


@pytest.mark.parametrize(("kind", "complete"), [("slow-body", True), ("truncated", False)])
async def test_what_goes_over_the_wire_is_complete_where_http_says_so(
    tmp_path: Path, kind: str, complete: bool
) -> None:
    """Not wherever all bytes that were meant to go have gone."""
    (tmp_path / "faults.toml").write_text(f'[[fault]]\nkind = "{kind}"\nseconds = 0.01')
    async with MockServer(settings(tmp_path, f"latency=0&faults={tmp_path / 'faults.toml'}")) as server:
        await asyncio.gather(post(server), return_exceptions=True)

    assert entries(tmp_path / "ledger.jsonl")[1]["complete"] is complete


async def test_a_request_that_the_servers_end_cut_off_is_not_answered(tmp_path: Path) -> None:
    """Nobody knows what became of it."""
    async with MockServer(settings(tmp_path, "latency=60")) as server:
        pending = asyncio.ensure_future(post(server))
        async with asyncio.timeout(10):
            while not server.in_flight:  # noqa: ASYNC110 -- the server has no event for this
                await asyncio.sleep(0.01)
    await asyncio.gather(pending, return_exceptions=True)

    assert [entry["event"] for entry in entries(tmp_path / "ledger.jsonl")] == ["received"]


def test_the_ledger_survives_the_servers_death(tmp_path: Path) -> None:
    """Kill -9 right after an answer; the next server goes on in the same file, which only its owner may read."""
    path = tmp_path / "ledger.jsonl"
    for _ in range(2):
        command = [sys.executable, "-m", "llmblast", "mock", "--port", "0", "--latency", "0", "--ledger", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            with urlopen(Request(f"{url}/chat/completions", data=BODY), timeout=10) as response:
                response.read()
            with urlopen(f"{url}/models", timeout=10) as response:
                response.read()
            process.kill()

    events = [(entry["event"], entry["number"]) for entry in entries(path)]
    assert process.returncode == -signal.SIGKILL
    # The second request shows that the first one's line is older than the kill.
    assert [event for event in events if event[1] == 1] == [("received", 1), ("answered", 1)] * 2
    assert os.stat(path).st_mode & 0o777 == 0o600


async def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Before anything is served."""
    with pytest.raises(
        UsageError, match=r"none/ledger: cannot be written: No such file .*name another file with --ledger"
    ):
        await MockServer(MockSettings(ledger=str(tmp_path / "none/ledger"))).__aenter__()


async def test_a_batch_is_worked_on_when_its_client_has_gone(tmp_path: Path) -> None:
    """Its start, each line that is billed and its end have a line each, though nobody asks for it any more."""
    line = {"custom_id": "a-0", "method": "POST", "url": "/v1/chat/completions", "body": orjson.loads(BODY)}
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"mark": "a"}}
    async with MockServer(settings(tmp_path, "latency=0&batch_delay=0")) as server:
        async with aiohttp.ClientSession() as session:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", orjson.dumps(line), filename="lines.jsonl")
            async with session.post(f"{server.url}/files", data=form) as response:
                file = await response.json()
            async with session.post(f"{server.url}/batches", json={**asked, "input_file_id": file["id"]}) as response:
                batch = await response.json()
        ledger = tmp_path / "ledger.jsonl"
        async with asyncio.timeout(10):
            while entries(ledger)[-1]["event"] != "batch_ended":  # noqa: ASYNC110 -- a file has no event
                await asyncio.sleep(0.01)

    told = [entry for entry in entries(ledger) if entry["event"].startswith("batch_")]
    assert all(entry.pop("at") > 0 for entry in told)
    head = {"batch": batch["id"], "api": "openai"}
    assert told == [
        {"event": "batch_started", **head, "metadata": {"mark": "a"}, "name": ""},
        {"event": "batch_line", **head, "custom_id": "a-0", "key": key_of(BODY), "status": 200, "billed": True},
        {"event": "batch_ended", **head, "state": "completed", "unfinished": 0},
    ]
