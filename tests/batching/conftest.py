"""The mock provider as a batch API, and clients of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from llmblast.batching.api import BatchApi
from llmblast.mocking.server import MockServer
from tests.batch_apis import APIS, Api
from tests.conftest import StartMock

OpenApi = Callable[..., BatchApi]


@pytest.fixture(params=APIS, ids=lambda api: api.name)
def api(request: pytest.FixtureRequest) -> Api:
    made: Api = request.param
    return made


@pytest.fixture
def mock(start_mock: StartMock) -> Callable[..., str]:
    """Starts a mock with these settings and returns its host."""

    def start(query: str = "batch_delay=0.2") -> str:
        server: MockServer = start_mock(f"latency=0&{query}")
        return server.url.removesuffix("/v1")

    return start


@pytest.fixture
async def client(api: Api) -> AsyncIterator[OpenApi]:
    """Opens clients of the API and closes them."""
    async with AsyncExitStack() as stack:

        def open_client(host: str, **options: object) -> BatchApi:
            made = api.open(host, **options)  # type: ignore[arg-type]  # options of `open`
            stack.push_async_callback(made.close)
            return made

        yield open_client
