"""The mock provider on a real socket, asked by a real client."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.mocking import server as server_module
from llmblast.mocking.server import MockServer, ScriptedReply
from llmblast.mocking.settings import MockSettings
from tests.mock_replies import meaning

BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Count the ships in the fog"}]})
AT_ONCE = MockSettings(latency=0)


class FakeClock:
    """Monotonic seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Got:
    """A reply that has been read to its end."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def post(
    session: aiohttp.ClientSession,
    server: MockServer,
    body: bytes = BODY,
    path: str = "/chat/completions",
    headers: dict[str, str] | None = None,
) -> Got:
    async with session.post(server.url + path, data=body, headers=headers) as response:
        return Got(response, await response.read())


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until the server is where the test wants it."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- the server has no event for this
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/chat/completions", "/chat/completions?api-version=1", "/../chat/completions"])
async def test_a_chat_request_is_answered(session: aiohttp.ClientSession, path: str) -> None:
    """With and without /v1, whatever stands behind the question mark."""
    async with MockServer(AT_ONCE) as server:
        got = await post(session, server, path=path)

    assert (got.status, got.headers["content-type"]) == (200, "application/json")
    assert got.json["choices"][0]["finish_reason"] == "stop"
    assert not [name for name in got.headers if name.lower().startswith("x-ratelimit")]


async def test_embeddings_and_models_are_answered(session: aiohttp.ClientSession) -> None:
    """The other two things that clients ask for."""
    async with MockServer(AT_ONCE) as server:
        embedded = await post(session, server, b'{"input":"ships"}', "/embeddings")
        async with session.get(server.url + "/models") as response:
            models = await response.json()

    assert len(embedded.json["data"]) == 1
    assert models["object"] == "list"


async def test_wrong_paths_methods_and_bodies_are_told(session: aiohttp.ClientSession) -> None:
    """Each in OpenAI's form."""
    async with MockServer(AT_ONCE) as server:
        unknown = await post(session, server, path="/audio/speech")
        no_json = await post(session, server, b"{")
        not_decodable = await post(session, server, b"no gzip at all", headers={"Content-Encoding": "gzip"})
        async with session.get(server.url + "/chat/completions") as response:
            wrong_method = await response.json()

    assert (unknown.status, unknown.json["error"]["code"]) == (404, "unknown_url")
    assert (no_json.status, no_json.json["error"]["code"]) == (400, "invalid_json")
    assert (not_decodable.status, not_decodable.json["error"]["code"]) == (400, "invalid_body")
    assert wrong_method["error"]["code"] == "method_not_allowed"


async def test_a_packed_body_is_unpacked(session: aiohttp.ClientSession) -> None:
    """The ledger has what the client meant."""
    async with MockServer(AT_ONCE, keep_ledger=True) as server:
        got = await post(session, server, gzip.compress(BODY), headers={"Content-Encoding": "gzip"})

    assert got.status == 200
    assert server.ledger[0].body == BODY


async def test_a_body_beyond_the_cap_is_refused(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded whatever is sent."""
    monkeypatch.setattr(server_module, "MAX_BODY_BYTES", 300_000)
    async with MockServer(AT_ONCE) as server:
        got = await post(session, server, b"x" * 300_001)

    assert (got.status, got.json["error"]["code"]) == (413, "request_too_large")


async def test_a_set_key_is_the_only_one_that_opens(session: aiohttp.ClientSession) -> None:
    """None and a wrong one get a 401."""
    async with MockServer(MockSettings(latency=0, key="k1")) as server:
        statuses = [
            (await post(session, server, headers=headers)).status
            for headers in ({}, {"Authorization": "Bearer k2"}, {"Authorization": "Bearer k1"})
        ]

    assert statuses == [401, 401, 200]


async def test_unauthorized_refuses_everybody(session: aiohttp.ClientSession) -> None:
    """As a provider does whose account was closed."""
    async with MockServer(MockSettings(latency=0, unauthorized=True)) as server:
        got = await post(session, server, headers={"Authorization": "Bearer k1"})

    assert (got.status, got.json["error"]["code"]) == (401, "invalid_api_key")


async def test_more_than_the_rate_gets_429_until_the_window_is_over(session: aiohttp.ClientSession) -> None:
    """The reply says how long, and afterwards it is true."""
    clock = FakeClock()
    async with MockServer(MockSettings(latency=0, rps=2), clock=clock) as server:
        first = await post(session, server)
        await post(session, server)
        clock.now += 0.25
        refused = await post(session, server)
        clock.now += 0.75
        afterwards = await post(session, server)

    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "750")
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "750ms"
    assert afterwards.status == 200
    assert (server.received, server.rejected) == (4, 1)


async def test_a_request_too_large_for_the_token_limit_is_not_told_to_wait(session: aiohttp.ClientSession) -> None:
    """No retry-after where waiting does not help."""
    async with MockServer(MockSettings(latency=0, tpm=3)) as server:
        got = await post(session, server)

    assert (got.status, got.json["error"]["type"]) == (429, "tokens")
    assert got.json["error"]["message"].startswith("Request too large")
    assert "retry-after" not in got.headers
    assert got.headers["x-ratelimit-limit-tokens"] == "3"


async def test_a_set_wall_clock_dates_anthropics_headers(session: aiohttp.ClientSession) -> None:
    """The moment at which the quota is full again, and retry-after beside it."""
    clock = FakeClock()
    settings = MockSettings(latency=0, rpm=1, headers="anthropic")
    async with MockServer(settings, clock=clock, wall_clock=lambda: 1_735_689_600.0) as server:
        await post(session, server)
        clock.now += 20
        refused = await post(session, server)

    assert refused.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert refused.headers["anthropic-ratelimit-requests-reset"] == "2025-01-01T00:00:40Z"
    assert refused.headers["retry-after"] == "40"


async def test_a_provider_can_be_silent_about_its_limits(session: aiohttp.ClientSession) -> None:
    """Neither headers nor a wait, whatever the reason for the 429."""
    settings = MockSettings(latency=0, rps=1, headers="none", tell_retry_after=False)
    async with MockServer(settings, clock=FakeClock()) as server:
        await post(session, server)
        refused = await post(session, server)
    async with MockServer(MockSettings(latency=0, rate_limited=1, tell_retry_after=False)) as server:
        limited = await post(session, server)

    assert (refused.status, limited.status) == (429, 429)
    names = [name.lower() for got in (refused, limited) for name in got.headers]
    assert not [name for name in names if "ratelimit" in name or "retry" in name]


async def test_output_is_charged_when_the_answer_is_complete(session: aiohttp.ClientSession) -> None:
    """Its own headers tell it, and a reply that nobody got was made all the same."""
    async with MockServer(MockSettings(latency=0, tpm=1000), clock=FakeClock()) as server:
        got = await post(session, server)
    async with MockServer(MockSettings(latency=0, tpm=1000, broken=1), clock=FakeClock()) as breaking:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(session, breaking)
        afterwards = await post(session, breaking, b"{")

    left = str(1000 - got.json["usage"]["total_tokens"])
    assert got.headers["x-ratelimit-remaining-tokens"] == left
    assert afterwards.headers["x-ratelimit-remaining-tokens"] == left


async def test_while_an_answer_is_made_only_its_prompt_is_charged(session: aiohttp.ClientSession) -> None:
    """The output is not known before."""
    async with MockServer(MockSettings(latency=60, tpm=1000), clock=FakeClock()) as server:
        pending = asyncio.ensure_future(post(session, server))
        await until(lambda: server.in_flight == 1)
        meanwhile = await post(session, server, b"{")
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)

    assert meanwhile.headers["x-ratelimit-remaining-tokens"] == "994"


async def test_what_max_tokens_reserves_is_charged_for_a_body_that_names_none(session: aiohttp.ClientSession) -> None:
    """By the setting of that name, and kept when the answer is shorter."""
    settings = MockSettings(latency=0, tpm=1000, charge="max_tokens", max_tokens=600)
    async with MockServer(settings, clock=FakeClock()) as server:
        got = await post(session, server)
        refused = await post(session, server)

    assert got.headers["x-ratelimit-remaining-tokens"] == "394"
    assert (refused.status, refused.json["error"]["type"]) == (429, "tokens")


async def test_more_in_flight_than_slots_slows_down(session: aiohttp.ClientSession) -> None:
    """The fourth of four takes (4 / 1) ^ 1.5 times as long."""
    started_s = time.monotonic()
    async with MockServer(MockSettings(latency=0.02, jitter=0, slots=1, overload=0.5)) as server:
        await asyncio.gather(*(post(session, server) for _ in range(4)))

    assert 0.16 <= time.monotonic() - started_s < 1


async def test_replies_that_limits_had_no_say_in_tell_the_limits_too(session: aiohttp.ClientSession) -> None:
    """A 400 has the headers and costs nothing."""
    async with MockServer(MockSettings(latency=0, rps=2), clock=FakeClock()) as server:
        got = await post(session, server, b"{")

    assert (got.status, got.headers["x-ratelimit-remaining-requests"]) == (400, "2")


async def test_more_in_flight_than_allowed_gets_429(session: aiohttp.ClientSession) -> None:
    """Those that came first are answered."""
    async with MockServer(MockSettings(latency=0.1, jitter=0, concurrency=2), keep_ledger=True) as server:
        replies = await asyncio.gather(*(post(session, server) for _ in range(5)))

    refused = [got for got in replies if got.status == 429]
    assert [entry.status for entry in server.ledger] == [200, 200, 429, 429, 429]
    assert {got.headers["retry-after-ms"] for got in refused} == {"100"}
    assert server.rejected == 3
    assert server.most_in_flight >= 3


async def test_an_answer_takes_its_latency(session: aiohttp.ClientSession) -> None:
    """And others are answered meanwhile."""
    started_s = time.monotonic()
    async with MockServer(MockSettings(latency=0.05, jitter=0)) as server:
        await asyncio.gather(*(post(session, server) for _ in range(20)))

    assert 0.05 <= time.monotonic() - started_s < 0.5
    assert server.most_in_flight == 20
    assert server.in_flight == 0


async def test_injected_errors_look_like_the_real_ones(session: aiohttp.ClientSession) -> None:
    """A 500 with an error object, a 429 with the wait that is set, a 200 that is no JSON."""
    async with MockServer(MockSettings(latency=0, errors=1)) as server:
        failed = await post(session, server)
    async with MockServer(MockSettings(latency=0, rate_limited=1, retry_after=2.5)) as limiting:
        limited = await post(session, limiting)
    async with MockServer(MockSettings(latency=0, malformed=1)) as mangling:
        mangled = await post(session, mangling)

    assert (failed.status, failed.json["error"]["type"]) == (500, "server_error")
    assert (limited.status, limited.headers["retry-after"], limited.headers["retry-after-ms"]) == (429, "3", "2500")
    assert limiting.rejected == 1
    assert mangled.status == 200
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(mangled.body)


async def test_a_broken_connection_brings_no_byte(session: aiohttp.ClientSession) -> None:
    """The ledger tells it as status 0, and the server goes on."""
    async with MockServer(MockSettings(latency=0, broken=1), keep_ledger=True) as server:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(session, server)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(session, server)

    assert [entry.status for entry in server.ledger] == [0, 0]


def _said(body: bytes) -> object:
    """The meaning of a reply; of one that was cut in half only that it was."""
    said = meaning(body)
    return None if isinstance(said, bytes) else said


async def test_two_runs_meet_the_same_faults(session: aiohttp.ClientSession) -> None:
    """Whatever arrives first, on however many connections."""
    settings = MockSettings(latency=0.001, errors=0.2, rate_limited=0.2, malformed=0.2)
    bodies = [orjson.dumps({"messages": [{"role": "user", "content": f"ship {number}"}]}) for number in range(100)]

    async with MockServer(settings) as server:
        together = await asyncio.gather(*(post(session, server, body) for body in bodies))
    async with MockServer(settings) as server:
        backwards = [await post(session, server, body) for body in reversed(bodies)]

    assert [got.status for got in together] == [got.status for got in reversed(backwards)]
    assert [_said(got.body) for got in together] == [_said(got.body) for got in reversed(backwards)]
    assert len({got.status for got in together}) == 3


async def test_the_ledger_has_every_request_as_it_came(session: aiohttp.ClientSession) -> None:
    """Moment, path, body, key, status and company."""
    clock = FakeClock()
    async with MockServer(AT_ONCE, keep_ledger=True, clock=clock) as server:
        await post(session, server, headers={"Authorization": "Bearer k"})
        clock.now += 2
        await post(session, server, b"{", "/embeddings")

    first, second = server.ledger
    assert (first.arrived_s, first.path, first.body) == (1000.0, "/v1/chat/completions", BODY)
    assert (first.has_authorization, first.status, first.in_flight) == (True, 200, 1)
    assert (second.arrived_s, second.path, second.has_authorization, second.status) == (
        1002.0,
        "/v1/embeddings",
        False,
        400,
    )


async def test_without_being_asked_no_ledger_is_kept(session: aiohttp.ClientSession) -> None:
    """Memory does not grow with the run."""
    async with MockServer(AT_ONCE) as server:
        await post(session, server)

    assert (server.ledger, server.received) == ([], 1)


async def test_a_script_makes_any_reply(session: aiohttp.ClientSession) -> None:
    """By index and body; None leaves it to the provider."""
    replies = {
        0: ScriptedReply(503, b"<html>", {"Retry-After": "7", "Content-Type": "text/html"}),
        1: ScriptedReply(429, b"{}"),
        2: ScriptedReply(break_connection=True),
    }
    seen: list[bytes] = []

    def script(index: int, body: bytes) -> ScriptedReply | None:
        seen.append(body)
        return replies.get(index)

    async with MockServer(MockSettings(latency=0, rps=100), script=script) as server:
        unavailable = await post(session, server)
        limited = await post(session, server)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(session, server)
        usual = await post(session, server)

    assert (unavailable.status, unavailable.body) == (503, b"<html>")
    assert (unavailable.headers["retry-after"], unavailable.headers["content-type"]) == ("7", "text/html")
    assert "x-ratelimit-limit-requests" not in unavailable.headers
    assert (limited.status, limited.headers["content-type"]) == (429, "application/json")
    assert usual.status == 200
    assert (server.rejected, seen) == (1, [BODY] * 4)


async def test_closing_does_not_wait_for_answers(session: aiohttp.ClientSession) -> None:
    """Handlers are cancelled and their clients see the connection go."""
    async with MockServer(MockSettings(latency=60)) as server:
        pending = [asyncio.ensure_future(post(session, server)) for _ in range(10)]
        await until(lambda: server.in_flight == 10)
        started_s = time.monotonic()
    closed_s = time.monotonic()
    outcomes = await asyncio.gather(*pending, return_exceptions=True)

    assert closed_s - started_s < 0.5
    assert {type(outcome) for outcome in outcomes} == {aiohttp.ServerDisconnectedError}
    assert server.in_flight == 0


async def test_a_client_that_gives_up_does_not_end_its_request(session: aiohttp.ClientSession) -> None:
    """As with the real providers, it counts as in flight until its answer is ready."""
    async with MockServer(MockSettings(latency=60)) as server:
        pending = asyncio.ensure_future(post(session, server))
        await until(lambda: server.in_flight == 1)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        async with session.get(server.url + "/models") as response:
            await response.read()

        assert server.in_flight == 1


async def test_a_client_that_goes_in_the_middle_of_its_body_is_let_go() -> None:
    """The request is counted, and nothing is left in flight."""
    async with MockServer(AT_ONCE, keep_ledger=True) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await until(lambda: server.in_flight == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: server.in_flight == 0)

    assert [entry.status for entry in server.ledger] == [0]


async def test_a_port_that_is_taken_is_told_in_one_sentence() -> None:
    """With the address and what to do."""
    async with MockServer(AT_ONCE) as server:
        port = urlsplit(server.url).port or 0
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: cannot listen there: Address already in use: cho"):
            await MockServer(AT_ONCE, port=port).__aenter__()


async def test_a_host_that_does_not_exist_is_told_in_one_sentence() -> None:
    """The reason is the resolver's."""
    with pytest.raises(UsageError, match=r"no-such-host\.invalid:0: cannot listen there: "):
        await MockServer(AT_ONCE, host="no-such-host.invalid").__aenter__()


async def test_an_ipv6_address_stands_in_brackets(session: aiohttp.ClientSession) -> None:
    """So that the URL can be used as it is."""
    try:
        server = await MockServer(AT_ONCE, host="::1").__aenter__()
    except UsageError:
        pytest.skip("this machine has no IPv6 loopback")
    got = await post(session, server)
    await server.__aexit__(None, None, None)

    assert server.url.startswith("http://[::1]:")
    assert got.status == 200


PLAIN = b'{"messages":[{"role":"user","content":"Hello there"}]}'


def _raw(body: bytes, *headers: str, path: str = "/v1/chat/completions", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: mock", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def _raw_replies(url: str, pieces: list[bytes], count: int) -> list[tuple[bytes, bytes]]:
    """The status and the body of so many replies on one connection, whose bytes are sent piece by piece."""
    reader, writer = await asyncio.open_connection(*url.split("/")[2].split(":"))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        replies = []
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            replies.append((head[9:12], await reader.readexactly(length)))
        return replies
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "pieces",
    [
        [_raw(PLAIN, f"Content-Length: {len(PLAIN)}")],
        [_raw(PLAIN, f"content-length:{len(PLAIN)}", "Accept-Encoding: gzip")],
        [_raw(b"", f"Content-Length: {len(PLAIN)}"), PLAIN],
        [_raw(PLAIN[:9], f"Content-Length: {len(PLAIN)}"), PLAIN[9:20], PLAIN[20:]],
        [_raw(b"%x\r\n%s\r\n0\r\n\r\n" % (len(PLAIN), PLAIN), "Transfer-Encoding: chunked")],
        [_raw(PLAIN, f"Content-Length: {len(PLAIN)}")[:5], _raw(PLAIN, f"Content-Length: {len(PLAIN)}")[5:]],
    ],
)
@pytest.mark.parametrize("query", ["latency=0", "latency=0.05", "latency=0.05&rps=1000", "latency=0&errors=1e-9"])
async def test_a_reply_does_not_depend_on_how_its_request_comes(pieces: list[bytes], query: str) -> None:
    """In one piece or in several, by length or in chunks, with and without faults that never come: one after another on
    the same connection, and the second before the first has its reply.
    """
    plain = _raw(PLAIN, f"Content-Length: {len(PLAIN)}")
    async with MockServer(MockSettings.from_query(query), keep_ledger=True) as server:
        replies = await _raw_replies(server.url, [plain, *pieces, plain], 3)

        assert [status for status, _ in replies] == [b"200"] * 3
        assert [meaning(body) for _, body in replies] == [meaning(replies[0][1])] * 3
        assert [arrival.body for arrival in server.ledger] == [PLAIN] * 3
        assert server.in_flight == 0


async def test_a_client_that_leaves_does_not_end_its_request() -> None:
    """It is answered, and charged, for nobody."""
    async with MockServer(MockSettings(latency=0.05)) as server:
        _, writer = await asyncio.open_connection(*server.url.split("/")[2].split(":"))
        writer.write(_raw(PLAIN, f"Content-Length: {len(PLAIN)}"))
        await until(lambda: server.in_flight == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: server.in_flight == 0)

        assert server.received == 1
