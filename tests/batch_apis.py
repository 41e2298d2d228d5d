"""What tests of batch APIs share: a description of each API, files of requests, and a relay that keeps answers back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llmblast.batching.anthropic import AnthropicBatches
from llmblast.batching.api import Access, BatchApi, BatchFile, BatchResult, BatchState, BatchStatus
from llmblast.batching.azure import AzureBatches
from llmblast.batching.gemini import GeminiBatches
from llmblast.batching.mistral import MistralBatches
from llmblast.batching.openai import OpenAIBatches
from llmblast.models import Prompt, Reply, Request
from llmblast.providers import PROVIDERS

MODEL = "m"
KEY = "a-key"
WAIT_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True)
class Api:
    """One API: its client, the kind of its provider, and the base URL below a host."""

    name: str
    client: Callable[..., BatchApi]
    kind: str
    base: str

    def open(
        self, host: str, *, key: str = KEY, access: Callable[[Access], Access] = lambda access: access
    ) -> BatchApi:
        """Return a client that does not pause between tries."""
        provider = PROVIDERS[self.kind]
        url = f"{host}{self.base}"
        headers = {**provider.headers, **dict([provider.auth_header(url, key)])}
        return self.client(access(Access("e", url, lambda: headers)), sleep=no_pause)

    def write(self, folder: Path, lines: int, mark: str = "m1", *, max_tokens: int = 8) -> BatchFile:
        """Write a file of requests with a client of this API."""
        api = self.open("http://127.0.0.1:9")
        file = folder / f"{mark}.jsonl"
        path, model = "", None
        with file.open("wb") as out:
            for number in range(lines):
                path, body = self.request(f"Question {number}?", max_tokens)
                model = MODEL
                out.write(api.render_line(f"{mark}-{number}", path, body, model))
        return BatchFile(file, mark, lines, path, model)

    def request(self, text: str, max_tokens: int = 8) -> tuple[str, bytes]:
        """Return path and body as they are sent directly."""
        provider = PROVIDERS[self.kind]
        path, body = provider.render(Prompt(text, None, (), {"max_tokens": max_tokens}))
        if self.kind != "gemini":
            body = b'{"model":"%b",' % MODEL.encode() + body[1:]
        return path, body

    def answer_in(self, reply: Reply) -> object:
        """Return what the provider reads in a 2xx reply."""
        path, body = self.request("x")
        return PROVIDERS[self.kind].read_answer(Request(1, "", b"", 1, path=path, body=body, kind=self.kind), reply)


APIS = [
    Api("openai", OpenAIBatches, "openai", "/v1"),
    Api("azure", AzureBatches, "azure", "/openai/v1"),
    Api("anthropic", AnthropicBatches, "anthropic", "/v1"),
    Api("gemini", GeminiBatches, "gemini", "/v1beta"),
    Api("mistral", MistralBatches, "openai", "/v1"),
]


async def no_pause(_seconds: float) -> None:
    """Give others a turn, and the server some time."""
    await asyncio.sleep(POLL_S)


async def start(api: BatchApi, batch: BatchFile) -> tuple[BatchFile, BatchStatus]:
    """Upload a file and start a batch on it."""
    uploaded = BatchFile(batch.file, batch.mark, batch.lines, batch.path, batch.model, await api.upload(batch))
    return uploaded, await api.start(uploaded)


async def wait(
    api: BatchApi, status: BatchStatus, until: Callable[[BatchStatus], bool] = lambda it: it.state is BatchState.ENDED
) -> BatchStatus:
    """Poll until the batch has ended, or something else is the case."""
    async with asyncio.timeout(WAIT_S):
        while not until(status):
            await asyncio.sleep(POLL_S)
            status = await api.status(status.id)
        return status


async def collect(api: BatchApi, status: BatchStatus) -> dict[str, BatchResult]:
    """Return the results by custom id; each must come once."""
    results = [result async for result in api.results(status)]
    by_id = {result.custom_id: result for result in results}
    assert len(by_id) == len(results)
    return by_id


@asynccontextmanager
async def relay(host: str, swallows: Callable[[bytes], bool]) -> AsyncIterator[str]:
    """Pass connections on to a server; where `swallows` says so of a request's head, keep its answer and hang up."""
    target = urlsplit(host)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        server_reader, server_writer = await asyncio.open_connection(target.hostname, target.port)
        server_writer.write(head)
        onward = asyncio.ensure_future(_pump(reader, server_writer))
        if swallows(head):
            await server_reader.read()
            writer.transport.abort()
        else:
            await _pump(server_reader, writer)
            writer.close()
        onward.cancel()
        server_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
