"""Every asynchronous test of this room runs on both event loops; `open_channel` makes it run on both transports."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
import uvloop

from llmblast.sending import TRANSPORTS, Channel
from llmblast.sending.lean import LeanChannel
from tests.sending.sending_wire import OpenChannel, Script, Serve, Server, a_target


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: AsyncExitStack) -> Serve:
    async def start(script: Script, tls: ssl.SSLContext | None = None) -> Server:
        server = Server(script)
        await server.start(tls)
        stack.push_async_callback(server.stop)
        return server

    return start


@pytest.fixture
def open_channel(stack: AsyncExitStack, transport: str) -> OpenChannel:
    """`channel = open_channel(url)`: closed before its server is."""

    def start(url: str, timeout_s: float = 30.0, connect_timeout_s: float = 10.0, **more: int) -> Channel:
        channel = TRANSPORTS[transport](a_target(url), timeout_s, connect_timeout_s, **more)
        stack.push_async_callback(channel.close)
        return channel

    return start


@pytest.fixture
def open_lean(stack: AsyncExitStack) -> OpenChannel:
    """The same for what only the lean transport does."""

    def start(url: str, timeout_s: float = 30.0, wall_clock: Callable[[], float] = time.time, **more: int) -> Channel:
        channel = LeanChannel(a_target(url), timeout_s, 10.0, wall_clock=wall_clock, **more)
        stack.push_async_callback(channel.close)
        return channel

    return start


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one has to trust to reach the TLS server."""
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def ca(certificate: Path) -> str:
    """The same as the value of the setting `ca_file`."""
    return str(certificate)


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context
