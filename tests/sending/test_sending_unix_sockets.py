"""Servers that listen at a file: both transports, on both event loops, and what is said where there is none."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Cause
from llmblast.sending import TRANSPORTS, Channel, goes_unprotected
from llmblast.sending.proxies import find_proxy
from llmblast.setting_loading import load
from tests.sending.sending_wire import BODY, Script, Server, a_reply, a_request, a_target, says


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "llm.sock")


class UnixServer(Server):
    """The same server at a file."""

    async def start_at(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._accept, path)


async def serve_at(path: str, script: Script, stack: AsyncExitStack) -> UnixServer:
    server = UnixServer(script)
    await server.start_at(path)
    stack.push_async_callback(server.stop)
    return server


def open_at(path: str, transport: str, stack: AsyncExitStack) -> Channel:
    channel = TRANSPORTS[transport](a_target("http://localhost/v1", unix_socket=path), 30.0, 10.0)
    stack.push_async_callback(channel.close)
    return channel


async def test_requests_go_to_the_file_on_kept_connections(path: str, transport: str, stack: AsyncExitStack) -> None:
    """With the path and the host of the URL."""
    server = await serve_at(path, says(a_reply()), stack)
    channel = open_at(path, transport, stack)
    await channel.warm_up()

    replies = [await channel.send(a_request()) for _ in range(3)]

    assert [(reply.status, reply.body) for reply in replies] == [(200, b'{"ok":1}')] * 3
    assert [request.line for request in server.received] == ["POST /v1/chat/completions HTTP/1.1"] * 3
    assert {request.headers["Host"] for request in server.received} == {"localhost"}
    assert {request.body for request in server.received} == {BODY}
    assert len(server.peers) == 1


def listened_before(path: str) -> None:
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no such socket: is the server running?"),
        (listened_before, "connection refused: is the server running?"),
        (lambda path: Path(path).write_bytes(b""), "connection refused: is the server running?"),
    ],
)
async def test_a_file_at_which_nobody_listens(
    path: str, transport: str, stack: AsyncExitStack, make: Callable[[str], object], words: str
) -> None:
    """Nothing was sent, so the line is sent again."""
    make(path)

    reply = await open_at(path, transport, stack).send(a_request())

    assert (reply.cause, reply.detail) == (Cause.NOT_SENT, f"{path}: {words}")


def test_no_proxy_is_asked_and_no_key_leaves_the_machine() -> None:
    """Whatever the host in the URL is."""
    endpoint = EndpointSettings(url="http://llm/v1", name="a", unix_socket="/run/x.sock")
    environ: Mapping[str, str] = {"http_proxy": "http://proxy:1", "all_proxy": "http://proxy:1"}

    assert find_proxy(endpoint, environ) is None
    assert not goes_unprotected(endpoint)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("https://localhost/v1,unix_socket=/run/x.sock", "unix_socket needs a URL with http://"),
        ("mock:,unix_socket=/run/x.sock", "unix_socket needs a URL with http://"),
        ("http://localhost/v1,proxy=http://p:1,unix_socket=/run/x.sock", "a proxy cannot reach a unix_socket"),
        (f"http://localhost/v1,unix_socket=/tmp/{'x' * 200}", "is longer than the 107 bytes that this system allows"),
    ],
)
def test_what_a_unix_socket_cannot_be_used_with(spec: str, words: str) -> None:
    """Said before anything is sent."""
    with pytest.raises(UsageError, match=words):
        load({"endpoints": [spec]}, None)
