"""The HTTP client of batch APIs, against servers that refuse, break off and send too much."""

import asyncio
import gc
import gzip
import time
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from llmblast.batching.anthropic import AnthropicBatches
from llmblast.batching.api import (
    Access,
    BatchApiError,
    BatchFile,
    BatchGone,
    BatchState,
    BatchStatus,
    BrokenOff,
    Found,
    Maybe,
    MaybeStarted,
    NotAllowed,
    NotHere,
    NotNow,
    Rejected,
    Unfinished,
    Unreachable,
)
from llmblast.batching.gemini import GeminiBatches
from llmblast.batching.http import MAX_TRIES
from llmblast.batching.openai import OpenAIBatches
from llmblast.models import Cause, Reply
from tests.proxy_server import HttpProxy

KEY = "sk-very-secret"
BATCH = BatchFile(Path("unused.jsonl"), "m1", 2, "chat/completions", "m", "file-1")
BEGUN = {"id": "b1", "status": "validating", "metadata": {"llmblast": "m1"}}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Sleeps:
    """A sleep that takes no time and keeps the pauses."""

    pauses: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """Run a server that answers each request in this way, and return its host."""
    app = web.Application(client_max_size=1 << 40)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def opened(answer: Answer, sleeps: Sleeps | None = None) -> AsyncIterator[OpenAIBatches]:
    """Open a client of a server that answers in this way."""
    async with serving(answer) as host:
        client = OpenAIBatches(access_to(host), sleep=sleeps or Sleeps())
        yield client
        await client.close()


def access_to(host: str) -> Access:
    return Access(
        "e",
        f"{host}/v1",
        lambda: {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        hide=lambda text: text.replace(KEY.encode(), b"(hidden)"),
    )


def in_turn(*answers: tuple[int, object], headers: dict[str, str] | None = None) -> tuple[Answer, list[str]]:
    """Return what gives these answers one after the other, the last one again and again; and the paths asked for."""
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        status, body = answers[min(len(paths), len(answers) - 1)]
        paths.append(f"{request.method} {request.path}")
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=content, headers=headers)

    return answer, paths


async def refusal(status: int, body: object, headers: dict[str, str] | None = None) -> tuple[BatchApiError, int]:
    """Return what a start raises for an answer, and the number of requests."""
    answer, paths = in_turn((status, body), headers=headers)
    async with opened(answer) as client:
        with pytest.raises(BatchApiError) as raised:
            await client.start(BATCH)
    return raised.value, len(paths)


async def test_a_question_is_asked_again_until_it_is_answered() -> None:
    """With pauses that grow."""
    answer, paths = in_turn((500, {}), (503, b"<html>"), (200, BEGUN))
    sleeps = Sleeps()

    async with opened(answer, sleeps) as client:
        status = await client.status("b1")

    assert status.state is BatchState.WAITING
    assert paths == ["GET /v1/batches/b1"] * 3
    assert len(sleeps.pauses) == 2
    assert 0 < sleeps.pauses[0] <= 1


async def test_a_question_that_is_never_answered_ends() -> None:
    """After a bounded number of tries."""
    answer, paths = in_turn((502, {}))

    async with opened(answer) as client:
        with pytest.raises(Unreachable, match="endpoint e: cannot ask for batch b1: HTTP 502"):
            await client.status("b1")

    assert len(paths) == MAX_TRIES


async def test_retry_after_is_obeyed() -> None:
    """Up to the longest pause; a longer one is the caller's affair."""
    answer, _ = in_turn((429, {}), (200, BEGUN), headers={"Retry-After": "7"})
    long_one, paths = in_turn((429, {}), headers={"Retry-After": "4000"})
    sleeps = Sleeps()

    async with opened(answer, sleeps) as client:
        await client.status("b1")
    async with opened(long_one, sleeps) as client:
        with pytest.raises(NotNow) as raised:
            await client.status("b1")

    assert sleeps.pauses == [7.0]
    assert raised.value.retry_after_s == 4000
    assert len(paths) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "no", "code": "invalid_request"}}, Rejected),
        (413, b"too much", Rejected),
        (307, b"", Rejected),
        (401, {"error": {"message": "no"}}, NotAllowed),
        (403, {"error": "no"}, NotAllowed),
        (404, b"<html>", NotHere),
        (501, {}, NotHere),
        (429, {"error": {"code": "insufficient_quota"}}, NotHere),
        (400, {"error": {"code": 400, "status": "FAILED_PRECONDITION"}}, NotHere),
        (429, {}, NotNow),
        (400, {"error": {"code": "token_limit_exceeded"}}, NotNow),
        (500, {}, MaybeStarted),
        (503, b"", MaybeStarted),
        (200, b"not json", MaybeStarted),
        (200, {"object": "batch"}, MaybeStarted),
    ],
)
async def test_a_start_is_sent_once_and_its_refusal_has_a_kind(
    status: int, body: object, kind: type[BatchApiError]
) -> None:
    """The caller acts by the kind."""
    error, requests = await refusal(status, body)

    assert type(error) is kind
    assert requests == 1


async def test_a_refused_start_names_its_wait() -> None:
    """Where the API does."""
    error, _ = await refusal(429, {}, {"Retry-After": "30"})

    assert isinstance(error, NotNow)
    assert error.retry_after_s == 30


async def test_an_error_shows_no_secrets_and_no_control_characters() -> None:
    """Servers repeat keys; terminals obey escapes."""
    error, _ = await refusal(400, {"error": {"message": f"bad key {KEY}\n\x1b[2J at http://u:pw@h/ " + "x" * 9000}})

    assert str(error).startswith(
        "endpoint e: cannot start a batch: HTTP 400: bad key (hidden) [2J at http://(hidden)@h/"
    )
    assert len(str(error)) < 1000


async def test_an_expired_key_is_renewed() -> None:
    """Also before a start, which a 401 is not: keys of commands and files are often valid for an hour only."""
    key = "old"
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.headers['Authorization']}")
        return web.json_response(BEGUN, status=200 if request.headers["Authorization"] == "new" else 401)

    async def renew() -> bool:
        nonlocal key
        key = "new"
        return True

    async with serving(answer) as host:
        access = replace(access_to(host), headers=lambda: {"Authorization": key}, renew_key=renew)
        client = OpenAIBatches(access, sleep=Sleeps())
        await client.start(BATCH)
        key = "old"
        await client.status("b1")
        await client.close()

    assert seen == ["POST old", "POST new", "GET old", "GET new"]


async def test_a_key_that_is_wrong_is_renewed_once() -> None:
    """The command prints the same one again."""
    answer, paths = in_turn((401, {"error": {"message": "no such key"}}))

    async def renew() -> bool:
        return True

    async with serving(answer) as host:
        client = OpenAIBatches(replace(access_to(host), renew_key=renew), sleep=Sleeps())
        with pytest.raises(NotHere):
            await client.status("b1")
        await client.close()

    assert len(paths) == 2


async def test_a_closed_connection_leaves_a_start_unknown() -> None:
    """The server may have acted before."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with opened(answer) as client:
        with pytest.raises(MaybeStarted):
            await client.start(BATCH)


async def test_a_start_that_cannot_connect_has_not_begun(unused_tcp_port: int) -> None:
    """It is known that nothing was started, also behind a proxy."""
    direct = access_to(f"http://127.0.0.1:{unused_tcp_port}")
    through_proxy = replace(access_to("https://api.test"), proxy_url=f"http://127.0.0.1:{unused_tcp_port}")

    for access in (direct, through_proxy):
        client = OpenAIBatches(access, sleep=Sleeps())
        with pytest.raises(Unreachable):
            await client.start(BATCH)
        await client.close()


async def test_a_file_is_closed_where_nobody_takes_it(tmp_path: Path, unused_tcp_port: int) -> None:
    """An open file left behind is a warning, which fails this test."""
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"{}\n")
    client = OpenAIBatches(access_to(f"http://127.0.0.1:{unused_tcp_port}"), sleep=Sleeps())

    refused = f"cannot upload a batch file: no connection to 127.0.0.1:{unused_tcp_port}: Connection refused$"
    with pytest.raises(Unreachable, match=refused):
        await client.upload(replace(BATCH, file=file))
    await client.close()
    gc.collect()


async def test_a_proxy_that_refuses_has_not_passed_on_the_start() -> None:
    """A CONNECT that fails is before the request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = OpenAIBatches(replace(access_to("https://api.test"), proxy_url=f"http://127.0.0.1:{port}"))
        with pytest.raises(Unreachable):
            await client.start(BATCH)
        await client.close()


async def test_a_proxy_gets_its_login_with_each_forwarded_request() -> None:
    """A connection without TLS has no CONNECT that would bring it."""
    answer, paths = in_turn((200, BEGUN))

    async with serving(answer) as host, HttpProxy(int(host.rpartition(":")[2]), login="u:pw") as proxy:
        login = {"Proxy-Authorization": f"Basic {b64encode(b'u:pw').decode()}"}
        access = replace(access_to("http://api.test"), proxy_url=f"http://127.0.0.1:{proxy.port}", proxy_headers=login)
        client = OpenAIBatches(access, sleep=Sleeps())
        await client.status("b1")
        await client.close()

    assert proxy.asked == ["GET http://api.test/v1/batches/b1 HTTP/1.1"]
    assert paths == ["GET /v1/batches/b1"]


def anthropic_batch(name: str, created_s: float, **more: object) -> dict[str, object]:
    created = datetime.fromtimestamp(created_s, UTC).isoformat()
    counts = {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    return {"id": name, "processing_status": "in_progress", "created_at": created, "request_counts": counts, **more}


@pytest.mark.parametrize("ahead_s", [0.0, -90_000.0, 90_000.0])
async def test_a_batch_may_be_ours_by_the_clock_of_its_server(ahead_s: float) -> None:
    """Ours may be a day off; others that began long before, or have another size, are not ours."""
    started_s = time.time()
    counts = {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    batches = [
        anthropic_batch("ours", started_s + ahead_s + 1),
        anthropic_batch("larger", started_s + ahead_s + 1, request_counts=counts),
        anthropic_batch("older", started_s + ahead_s - 3600),
    ]
    date = format_datetime(datetime.fromtimestamp(started_s + ahead_s, UTC), usegmt=True)
    answer, _ = in_turn((200, {"data": batches, "has_more": False}), headers={"Date": date})

    async with serving(answer) as host:
        client = AnthropicBatches(access_to(host), sleep=Sleeps())
        finding = await client.find(BATCH, started_s)
        await client.close()

    assert finding == Maybe(("ours",))


async def test_the_first_result_tells_whose_an_ended_batch_is() -> None:
    """Without reading the others; a batch whose results are gone is not ours."""
    now_s = time.time()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/batches"):
            ended = [anthropic_batch(name, now_s, processing_status="ended") for name in ("gone", "theirs", "ours")]
            return web.json_response({"data": ended, "has_more": False})
        name = request.path.split("/")[-2]
        if name == "gone":
            return web.Response(status=404)
        response = web.StreamResponse()
        await response.prepare(request)
        line = {"custom_id": f"{'m1' if name == 'ours' else 'm0'}-0", "result": {"type": "expired"}}
        await response.write(orjson.dumps(line) + b"\n")
        await asyncio.sleep(3600)
        return response

    async with serving(answer) as host:
        client = AnthropicBatches(access_to(host), sleep=Sleeps())
        finding = await client.find(BATCH, now_s)
        await client.close()

    assert isinstance(finding, Found)
    assert finding.status.id == "ours"


def result_line(number: int, size: int = 10) -> bytes:
    body = {"choices": [{"message": {"content": "x" * size}}]}
    row = {"id": "r", "custom_id": f"m1-{number}", "response": {"status_code": 200, "body": body}, "error": None}
    return orjson.dumps(row) + b"\n"


ENDED = BatchStatus("b1", BatchState.ENDED, result_files=("out",))


async def test_a_broken_download_begins_anew() -> None:
    """Each result comes once, however often it breaks on the way."""
    tries = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        response = web.StreamResponse(headers={"Content-Length": str(sum(len(result_line(n)) for n in range(50)))})
        await response.prepare(request)
        for number in range(min(5 * tries, 50)):
            await response.write(result_line(number))
        assert request.transport is not None
        if tries < 10:
            request.transport.close()
        return response

    async with opened(answer) as client:
        results = [result.custom_id async for result in client.results(ENDED)]

    assert results == [f"m1-{number}" for number in range(50)]
    assert tries == 10 > MAX_TRIES


async def test_a_download_that_never_ends_well_is_given_up() -> None:
    """Once it makes no progress any more."""
    tries = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(result_line(1))
        assert request.transport is not None
        request.transport.close()
        return response

    async with opened(answer) as client:
        with pytest.raises(BrokenOff, match=r"read the results of batch b1: Response payload is not completed$"):
            [result async for result in client.results(ENDED)]

    assert tries == MAX_TRIES


FILE = b"".join(result_line(number) for number in range(50))
PIECE = 1000
"""No multiple of a line."""


@dataclass
class BreakingFiles:
    """Sends files of `FILE` that break off after some bytes each time; from any byte on, where `tag` names a version.

    `ranges` are those asked for, with the version.
    """

    tag: str = ""
    changes: bool = False
    encoding: str = ""
    ranges: list[str] = field(default_factory=list)

    async def send(self, request: web.Request) -> web.StreamResponse:
        asked, tag = request.headers.get("Range", ""), f'"{len(self.ranges)}"' if self.changes else self.tag
        self.ranges.append(f"{asked} {request.headers.get('If-Range', '')}".strip())
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and request.headers["If-Range"] == tag else 0
        headers = {"ETag": tag} if tag else {}
        if self.encoding and "identity" not in request.headers["Accept-Encoding"]:
            headers["Content-Encoding"] = self.encoding
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(FILE) - 1}/{len(FILE)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(FILE) - start
        await response.prepare(request)
        data = FILE[start : start + PIECE]
        await response.write(gzip.compress(data) if "Content-Encoding" in headers else data)
        assert request.transport is not None
        if start + PIECE < len(FILE):
            request.transport.close()
        return response


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_a_download_that_always_breaks_off_goes_on_behind_its_last_whole_line(encoding: str) -> None:
    """A compressed one does so once it has come uncompressed, since its bytes were counted then."""
    files = BreakingFiles(tag='"v1"', encoding=encoding)

    async with opened(files.send) as client:
        results = [result.custom_id async for result in client.results(ENDED)]

    assert results == [f"m1-{number}" for number in range(50)]
    size = len(result_line(1))
    first = PIECE // size * size
    assert files.ranges[2 if encoding else 1] == f'bytes={first}- "v1"'
    assert len(files.ranges) > MAX_TRIES


@pytest.mark.parametrize("name", ["no", "weak", "changing"])
async def test_a_download_without_a_lasting_version_begins_anew(name: str) -> None:
    """The rest of another version may lack lines that the first part lacked, too."""
    files = BreakingFiles(tag='W/"v1"' if name == "weak" else "", changes=name == "changing")

    async with opened(files.send) as client:
        with pytest.raises(BrokenOff):
            [result async for result in client.results(ENDED)]

    assert len(files.ranges) == MAX_TRIES
    assert any(files.ranges) == (name == "changing")


async def test_a_server_that_sends_another_part_is_asked_for_the_whole_file() -> None:
    """A part that is not known to join would lose lines."""
    tries: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        tries.append(request.headers.get("Range", ""))
        if tries[-1]:
            return web.Response(status=206, body=FILE[500:], headers={"Content-Range": "bytes 500-1/1"})
        response = web.StreamResponse(headers={"ETag": '"v1"', "Content-Length": str(len(FILE))})
        await response.prepare(request)
        await response.write(FILE[:PIECE] if len(tries) == 1 else FILE)
        assert request.transport is not None
        if len(tries) == 1:
            request.transport.close()
        return response

    async with opened(answer) as client:
        results = [result.custom_id async for result in client.results(ENDED)]

    assert results == [f"m1-{number}" for number in range(50)]
    assert [bool(asked) for asked in tries] == [False, True, False]


async def test_a_download_that_is_refused_for_now_is_tried_again() -> None:
    """After the wait that the reply names."""
    answer, paths = in_turn((429, {}), (200, result_line(1)), headers={"Retry-After": "7"})
    sleeps = Sleeps()

    async with opened(answer, sleeps) as client:
        results = [result.custom_id async for result in client.results(ENDED)]

    assert (results, sleeps.pauses, len(paths)) == (["m1-1"], [7.0], 2)


async def test_results_that_are_deleted_are_gone() -> None:
    """Providers keep them for some weeks."""
    answer, _ = in_turn((404, {"error": {"message": "No such File"}}))

    async with opened(answer) as client:
        with pytest.raises(BatchGone, match="No such File"):
            [result async for result in client.results(ENDED)]


async def test_odd_lines_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be told apart by its custom id is kept; the rest is left out."""
    monkeypatch.setattr("llmblast.batching.http.MAX_LINE_BYTES", 100_000)
    rows: list[object] = [
        {
            "custom_id": "a",
            "response": {"status_code": 429, "request_id": "r1", "body": {"error": {"message": "slow"}}},
        },
        {"custom_id": "b", "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {"custom_id": "c", "response": None, "error": {"code": "odd", "message": "?"}},
        {"response": {"status_code": 200, "body": {}}},
        [1],
    ]
    lines = [orjson.dumps(row) for row in rows]
    lines += [b'{"custom_id":"d","response":{"status_code":200,"body":{"x":', b"", b"  ", b"no json"]
    lines += [b'{"custom_id":"e","response":{"body":"' + b"x" * 300_000 + b'"}}', result_line(7).strip()]
    answer, _ = in_turn((200, b"\r\n".join(lines)))

    async with opened(answer) as client:
        replies = {result.custom_id: result.reply async for result in client.results(ENDED)}

    assert list(replies) == ["a", "b", "c", "d", "e", "m1-7"]
    assert replies["b"] == Unfinished("too late")
    a, c, d, e = (replies[name] for name in "acde")
    assert isinstance(a, Reply)
    assert (a.status, a.header(b"x-request-id")) == (429, b"r1")
    assert isinstance(c, Reply)
    assert (c.status, orjson.loads(c.body)["error"]["code"]) == (500, "odd")
    assert isinstance(d, Reply)
    assert (d.status, d.body[:16]) == (200, b'{"custom_id":"d"')
    assert isinstance(e, Reply)
    assert e.cause is Cause.TOO_LARGE


async def test_keys_stay_with_their_server() -> None:
    """The second URL of an upload is the server's choice."""
    seen: list[dict[str, str]] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.json_response({"file": {"name": "files/1"}})

    async with serving(elsewhere) as other:
        answer, _ = in_turn((200, {}), headers={"X-Goog-Upload-URL": f"{other}/put"})
        async with serving(answer) as host:
            client = GeminiBatches(access_to(host))
            upload_id = await client.upload(replace(BATCH, file=Path(__file__)))
            await client.close()

    assert upload_id == "files/1"
    assert KEY not in str(seen)


def test_access_shows_no_headers() -> None:
    """In no text."""
    assert KEY not in repr(access_to("http://h"))


@pytest.mark.parametrize("base", ["/v1", "/openai?api-version=2024-10-21"])
async def test_the_query_of_a_base_url_stays(base: str) -> None:
    """Azure's older versions need it, also beside other parameters."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.json_response({"data": []})

    async with serving(answer) as host:
        client = OpenAIBatches(replace(access_to(host), base_url=f"{host}{base}"))
        [status async for status in client.list(0.0)]
        await client.close()

    path, _, query = base.partition("?")
    assert asked == [f"{path}/batches?{query}&limit=100" if query else f"{path}/batches?limit=100"]


LINES = 50_000
MAX_PEAK_BYTES = 12_000_000


async def test_a_large_batch_needs_little_memory(tmp_path: Path) -> None:
    """50,000 lines of 2 KB are uploaded and collected as streams."""
    file = tmp_path / "lines.jsonl"
    received = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal received
        if request.method == "POST":
            async for piece in request.content.iter_any():
                received += len(piece)
            return web.json_response({"id": "file-1"})
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(0, LINES, 50):
            await response.write(b"".join(result_line(one, 2000) for one in range(number, number + 50)))
        return response

    async with opened(answer) as client:
        with file.open("wb") as out:
            for number in range(LINES):
                out.write(client.render_line(f"m1-{number}", "chat/completions", b'{"a":"' + b"x" * 1900 + b'"}', "m"))
        tracemalloc.start()
        await client.upload(replace(BATCH, file=file))
        count = 0
        async for _ in client.results(ENDED):
            count += 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert received > file.stat().st_size
    assert count == LINES
    assert peak < MAX_PEAK_BYTES
