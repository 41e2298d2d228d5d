"""Inputs at URLs: real servers that break off, change their files, and refuse."""

import gzip
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from llmblast.errors import InputDamagedError, InputMissingError
from llmblast.reading import open_source, open_sources, remote

TEXT = b"".join(b'{"input":"question %d"}\n' % (number * 7919) for number in range(40_000))
LAST_MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


@dataclass
class FileServer:
    """A server of one file: `breaks` are the bytes after which each of the first connections breaks off."""

    data: bytes = TEXT
    statuses: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    has_ranges: bool = True
    tag: str | None = '"one"'
    tag_after_break: str | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, request.headers.get("Range")))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="secret")
        start = int(request.headers["Range"][6:].split("-")[0]) if self.has_ranges and "Range" in request.headers else 0
        tag = self.tag_after_break if self.tag_after_break and len(self.requests) > 1 else self.tag
        headers = {"Content-Length": str(len(self.data) - start), "Last-Modified": LAST_MODIFIED}
        if tag is not None:
            headers["ETag"] = tag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if self.breaks:
            await response.write(self.data[start : start + self.breaks.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(self.data[start:])
        return response


Serve = Callable[..., Awaitable[FileServer]]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    monkeypatch.setattr(remote, "FIRST_DELAY_S", 0.001)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    runners = []

    async def start(**options: object) -> FileServer:
        server = FileServer(**options)  # type: ignore[arg-type] # checked by the class
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return server

    yield start
    for runner in runners:
        await runner.cleanup()


async def read(url: str) -> bytes:
    source = await open_source(url)
    try:
        return b"".join([block async for block in source.blocks()])
    finally:
        await source.close()


async def test_a_url_is_read_with_its_query(serve: Serve) -> None:
    """As links that are signed have one. Its size is known."""
    server = await serve()
    sources = await open_sources([f"{server.url}/a%20b.jsonl?sig=a%2Bb&x=1"])

    async for source in sources.each():
        assert b"".join([block async for block in source.blocks()]) == TEXT

    assert server.requests == [("/a%20b.jsonl?sig=a%2Bb&x=1", None)]
    assert sources.size_bytes == len(TEXT)


async def test_what_is_compressed_is_decompressed(serve: Serve) -> None:
    """By its content, as everywhere."""
    assert await read((await serve(data=gzip.compress(TEXT))).url) == TEXT


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("tag", ['"one"', None, 'W/"weak"'])
async def test_a_broken_connection_is_taken_up_again(serve: Serve, has_ranges: bool, tag: str | None) -> None:
    """From where it broke, also at servers without range requests."""
    server = await serve(breaks=[300_000, 0, 200_000], has_ranges=has_ranges, tag=tag)

    assert await read(server.url) == TEXT
    assert len(server.requests) == 4
    assert all(requested is not None for _, requested in server.requests[1:])


async def test_passing_problems_are_waited_for(serve: Serve) -> None:
    """At the start and later."""
    assert await read((await serve(statuses=[503, 429, 500])).url) == TEXT


@pytest.mark.parametrize("has_ranges", [True, False])
async def test_a_file_that_has_changed_is_damaged(serve: Serve, has_ranges: bool) -> None:
    """The rest of another file is never put behind its start."""
    server = await serve(breaks=[300_000], has_ranges=has_ranges, tag_after_break='"two"')

    with pytest.raises(InputDamagedError, match=r"reading failed at byte \d+: it has changed since it was opened"):
        await read(server.url)


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ([404], "HTTP 404 Not Found: correct the URL; an endpoint is named with --url"),
        ([403], "HTTP 403 Forbidden: it is not allowed: the link may have expired"),
        ([401], "HTTP 401 Unauthorized: it needs a user and a password, or others than these: write them and @"),
        ([405], "HTTP 405 Method Not Allowed: this URL names an API, not a file; an endpoint is named with --url"),
        ([503] * 6, "HTTP 503 Service Unavailable"),
    ],
)
async def test_a_refusal_is_told_without_secrets(serve: Serve, statuses: list[int], message: str) -> None:
    """Neither user nor query stand in the message."""
    server = await serve(statuses=statuses)
    url = server.url.replace("http://", "http://user:secret@")

    with pytest.raises(InputMissingError) as raised:
        await read(f"{url}/v1/a.jsonl?key=secret")

    assert str(raised.value).startswith(f"{server.url}/v1/a.jsonl: cannot be read: {message}")
    assert "secret" not in str(raised.value)


async def test_a_server_that_is_not_there_is_told(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"

        with pytest.raises(InputMissingError, match=r"cannot be read: connection refused$"):
            await read(url)


async def test_a_server_without_tls_is_told(serve: Serve) -> None:
    """With what to write instead."""
    url = (await serve()).url.replace("http://", "https://")

    with pytest.raises(
        InputMissingError, match=r"no TLS connection: wrong version number: is it a server of http://\?"
    ):
        await read(url)


@pytest.mark.parametrize("url", ["http://[", "http://", "https://host:99999/a"])
async def test_a_url_that_is_none_is_told(url: str) -> None:
    """Without a traceback."""
    with pytest.raises(InputMissingError, match="cannot be read: it is not a URL of a file: write https://HOST/PATH"):
        await read(url)


async def test_an_unknown_kind_of_url_is_told() -> None:
    """With those that are known."""
    with pytest.raises(InputMissingError, match="unknown kind of URL ftp: write http://, https://, s3://"):
        await read("ftp://host/a.jsonl")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Callable[[FileServer], None]:
    def use(server: FileServer) -> None:
        for name, value in {
            "AWS_ENDPOINT": server.url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret-access-key",
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0",
            "AZURE_STORAGE_ENDPOINT": server.url,
        }.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize(
    ("url", "path"),
    [("s3://bucket/a dir/b%20?.jsonl", "/bucket/a%20dir/b%2520%3F.jsonl"), ("az://box/a.jsonl", "/box/a.jsonl")],
)
async def test_an_object_is_read_through_broken_connections(
    serve: Serve, s3: Callable[[FileServer], None], url: str, path: str
) -> None:
    """By its key as it is written."""
    server = await serve(breaks=[300_000])
    s3(server)
    sources = await open_sources([url])

    async for source in sources.each():
        assert b"".join([block async for block in source.blocks()]) == TEXT

    assert sources.size_bytes == len(TEXT)
    assert [requested for requested, _ in server.requests] == [path, path]


@pytest.mark.parametrize(
    ("url", "statuses", "message"),
    [
        ("s3://bucket/a", [404], "there is no such object"),
        ("s3://bucket/*.gz", [404], "there is no such object: correct the URL; patterns work for local files only"),
        ("s3://bucket/a", [403], "it is not allowed: set AWS_ACCESS_KEY_ID"),
        ("az://box/a", [403], "it is not allowed: set AZURE_STORAGE_ACCOUNT_NAME"),
        ("s3://bucket", [], "it names a bucket: name an object in it"),
    ],
)
async def test_an_object_that_cannot_be_read_is_told(
    serve: Serve, s3: Callable[[FileServer], None], url: str, statuses: list[int], message: str
) -> None:
    """With the variables that have the credentials."""
    server = await serve(statuses=statuses)
    s3(server)

    with pytest.raises(InputMissingError) as raised:
        await read(url)

    assert str(raised.value).startswith(f"{url}: cannot be read: {message}")
    assert "secret" not in str(raised.value)
