"""What there is besides the operations, by which methods, and the headers that every reply has."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from llmblast.api_paths import API_PATHS
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings

BODY = orjson.dumps({"messages": [{"role": "user", "content": "Count the ships"}]})
AT_ONCE = MockSettings(latency=0)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, server: MockServer, method: str, path: str, **more: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    """A reply that has been read to its end; `path` is counted from the host."""
    async with session.request(method, server.url.removesuffix("/v1") + path, **more) as response:
        return response, await response.read()


@pytest.mark.parametrize("path", ["/", "/health", "/v1/health", "/models", "/v1/models", "/v1/models/mock"])
async def test_what_can_be_read_has_a_head_of_its_own(session: aiohttp.ClientSession, path: str) -> None:
    """HEAD has the headers of GET and no body."""
    async with MockServer(AT_ONCE) as server:
        got, body = await ask(session, server, "GET", path)
        head, nothing = await ask(session, server, "HEAD", path)

    assert (got.status, head.status, nothing) == (200, 200, b"")
    assert orjson.loads(body)
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", "POST, OPTIONS"),
        ("/embeddings", "POST, OPTIONS"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/mock", "GET, HEAD, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/v1/batches", "GET, POST, OPTIONS"),
    ],
)
async def test_options_tell_the_methods_and_others_are_refused(
    session: aiohttp.ClientSession, path: str, allowed: str
) -> None:
    """With `Allow` in both, as HTTP demands of a 405."""
    async with MockServer(AT_ONCE) as server:
        options, nothing = await ask(session, server, "OPTIONS", path)
        refused, body = await ask(session, server, "DELETE", path)

    assert (options.status, options.headers["allow"], nothing) == (204, allowed, b"")
    assert (refused.status, refused.headers["allow"]) == (405, allowed)
    assert orjson.loads(body)["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/file", "/v1/models/", "/chat", "/v2/models", "/healthy"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_an_unknown_path_is_told_in_openais_form(session: aiohttp.ClientSession, path: str, method: str) -> None:
    """By the method and the path."""
    async with MockServer(AT_ONCE) as server:
        got, body = await ask(session, server, method, path)

    assert got.status == 404
    assert orjson.loads(body)["error"]["message"] == f"Invalid URL ({method} {path})"


@pytest.mark.parametrize("path", API_PATHS)
async def test_every_path_of_the_apis_is_answered_or_told(session: aiohttp.ClientSession, path: str) -> None:
    """A batch file may have lines for APIs that the mock provider has not."""
    async with MockServer(AT_ONCE) as server:
        got, body = await ask(session, server, "POST", f"/v1/{path}", data=b"{}")

    told = "Missing required parameter" if got.status == 400 else "the mock provider answers only chat/completions, "
    assert got.status in (400, 404)
    assert told in orjson.loads(body)["error"]["message"]


async def test_models_are_those_that_were_named(session: aiohttp.ClientSession) -> None:
    """A name may have a slash, plain or escaped."""
    async with MockServer(MockSettings(latency=0, models="large org/small large")) as server:
        _, listed = await ask(session, server, "GET", "/v1/models")
        _, plain = await ask(session, server, "GET", "/v1/models/org/small?x=1")
        _, escaped = await ask(session, server, "GET", "/models/org%2Fsmall")
        unknown, body = await ask(session, server, "GET", "/v1/models/tiny")

    assert [model["id"] for model in orjson.loads(listed)["data"]] == ["large", "org/small"]
    assert orjson.loads(plain) == orjson.loads(escaped)
    assert (unknown.status, orjson.loads(body)["error"]["code"]) == (404, "model_not_found")


async def test_without_a_list_any_model_is_there(session: aiohttp.ClientSession) -> None:
    """As any is answered."""
    async with MockServer(AT_ONCE) as server:
        _, body = await ask(session, server, "GET", "/v1/models/tiny")

    assert (orjson.loads(body)["id"], orjson.loads(body)["object"]) == ("tiny", "model")


async def test_a_key_guards_models_but_not_the_health_check(session: aiohttp.ClientSession) -> None:
    """Whoever watches the server needs none."""
    async with MockServer(MockSettings(latency=0, key="k1")) as server:
        health, _ = await ask(session, server, "GET", "/health")
        models, _ = await ask(session, server, "GET", "/v1/models")
        known, _ = await ask(session, server, "GET", "/v1/models", headers={"Authorization": "Bearer k1"})

    assert (health.status, models.status, known.status) == (200, 401, 200)


@pytest.mark.parametrize("query", ["latency=0.02&jitter=0", "latency=0.02&jitter=0&errors=1e-9"])
async def test_every_reply_has_its_own_request_id(session: aiohttp.ClientSession, query: str) -> None:
    """Errors, too; and the time that it took."""
    async with MockServer(MockSettings.from_query(query)) as server:
        replies = [
            await ask(session, server, method, path, data=body)
            for method, path, body in [
                ("POST", "/v1/chat/completions", BODY),
                ("POST", "/v1/chat/completions", BODY),
                ("POST", "/v1/chat/completions", b"{"),
                ("GET", "/v1/models", None),
                ("GET", "/nothing", None),
            ]
        ]

    identities = [response.headers["x-request-id"] for response, _ in replies]
    assert len(set(identities)) == 5
    assert all(identity.startswith("req_") for identity in identities)
    assert [response.headers["openai-processing-ms"] for response, _ in replies] == ["20", "20", "0", "0", "0"]


async def test_a_client_that_waits_to_send_its_body_is_told_to() -> None:
    """As curl does with large ones."""
    async with MockServer(AT_ONCE) as server:
        reader, writer = await asyncio.open_connection(*server.url.split("/")[2].split(":"))
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(BODY))
        interim = await reader.readuntil(b"\r\n\r\n")
        writer.write(BODY)
        final = await reader.readline()
        writer.close()
        await writer.wait_closed()

    assert interim.startswith(b"HTTP/1.1 100 ")
    assert final.startswith(b"HTTP/1.1 200 ")
