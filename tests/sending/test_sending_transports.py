"""Both transports send the same request, and tell a person the same when it could not be sent or took too long."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from llmblast.models import Attempt, Cause
from llmblast.sending import TRANSPORTS, Channel, ChannelListener
from tests.sending.sending_wire import (
    BODY,
    KEY,
    OpenChannel,
    Peer,
    Serve,
    a_reply,
    a_request,
    a_target,
    first,
    says,
    settle,
)

A_MEGABYTE = 1024 * 1024


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that another connection is never completed."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_request_arrives_exactly_as_meant(serve: Serve, open_channel: OpenChannel) -> None:
    """Path, headers and body, and nothing besides, whichever the transport."""
    server = await serve(says(a_reply()))

    await open_channel(server.url).send(a_request())

    (received,) = server.received
    assert received.line == "POST /v1/chat/completions HTTP/1.1"
    assert received.headers == {
        "Host": f"127.0.0.1:{server.port}",
        "User-Agent": "llmblast/0.1",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {KEY}",
        "Content-Length": str(len(BODY)),
    }
    assert received.body == BODY


async def test_the_endpoints_model_is_put_in_front(serve: Serve, open_channel: OpenChannel) -> None:
    """Only where the body names none."""
    server = await serve(says(a_reply()))
    channel = open_channel(server.url)

    await channel.send(a_request(needs_model=True, path="embeddings"))
    await channel.send(a_request(b'{"model":"mine"}'))

    assert [received.body for received in server.received] == [b'{"model":"m",' + BODY[1:], b'{"model":"mine"}']
    assert server.received[0].line == "POST /v1/embeddings HTTP/1.1"


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("", "POST /v1/chat/completions HTTP/1.1"),
        ("/v1/chat/completions", "POST /v1/chat/completions HTTP/1.1"),
        (
            "/openai/deployments/gpt?api-version=1",
            "POST /openai/deployments/gpt/chat/completions?api-version=1 HTTP/1.1",
        ),
        ("/ä b/v1", "POST /%C3%A4%20b/v1/chat/completions HTTP/1.1"),
    ],
)
async def test_the_path_follows_the_base_url(serve: Serve, open_channel: OpenChannel, base: str, line: str) -> None:
    """A query stays behind the path, other characters are encoded."""
    server = await serve(says(a_reply()))

    await open_channel(f"http://127.0.0.1:{server.port}{base}").send(a_request())

    assert server.received[0].line == line


async def test_a_large_request_and_a_large_reply_come_whole(serve: Serve, open_channel: OpenChannel) -> None:
    """A megabyte each way."""
    question = b'{"q":"' + b"x" * A_MEGABYTE + b'"}'
    answer = b'{"a":"' + os.urandom(A_MEGABYTE // 2).hex().encode() + b'"}'
    server = await serve(says(a_reply(answer)))

    reply = await open_channel(server.url).send(a_request(question))

    assert server.received[0].body == question
    assert reply.body == answer


async def test_headers_of_an_interim_reply_are_not_those_of_the_reply(serve: Serve, open_channel: OpenChannel) -> None:
    """RFC 9110 section 15.2: it only precedes the reply."""
    hints = b"HTTP/1.1 103 Early Hints\r\nRetry-After: 60\r\nLink: </x>\r\n\r\n"
    server = await serve(says(hints + a_reply(b"{}", "Retry-After: 3")))

    reply = await open_channel(server.url).send(a_request())

    assert reply.headers == {b"Content-Length": b"2", b"Retry-After": b"3"}


async def test_headers_come_back_as_they_were_sent(serve: Serve, open_channel: OpenChannel) -> None:
    """Names keep their case, `Reply.header` finds them by the lower-case one; the first of a name counts."""
    server = await serve(says(a_reply(b"{}", "Retry-After: 3", "X-Request-ID: r1", "X-Request-ID: r2")))

    reply = await open_channel(server.url).send(a_request())

    assert reply.headers == {b"Content-Length": b"2", b"Retry-After": b"3", b"X-Request-ID": b"r1"}
    assert reply.header(b"retry-after") == b"3"


async def test_a_redirect_is_not_followed(serve: Serve, open_channel: OpenChannel) -> None:
    """The key would go wherever the server says."""
    server = await serve(says(a_reply(b"", "Location: /elsewhere", status="307 Temporary Redirect")))

    reply = await open_channel(server.url).send(a_request())

    assert (reply.status, reply.cause) == (307, None)
    assert len(server.received) == 1


async def test_a_cookie_is_not_sent_back(serve: Serve, open_channel: OpenChannel) -> None:
    """Requests know nothing of one another."""
    server = await serve(says(a_reply(b"{}", "Set-Cookie: s=1; Path=/")))
    channel = open_channel(server.url.replace("127.0.0.1", "localhost"))

    for _ in range(2):
        await channel.send(a_request())

    assert "Cookie" not in server.received[1].headers


async def test_a_netrc_file_changes_nothing(
    serve: Serve, open_channel: OpenChannel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its passwords are for other programs."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = await serve(says(a_reply()))

    reply = await open_channel(server.url).send(a_request())

    assert reply.status == 200
    assert server.received[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_a_reply_over_the_cap_is_cut_off(serve: Serve, open_channel: OpenChannel) -> None:
    """Memory is bounded, the request fails, and the next one takes a fresh connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply(b"x" * 5000)[:3000])
        await peer.stay()

    server = await serve(first(script, says(a_reply())))
    channel = open_channel(server.url, max_reply_bytes=1000)

    reply = await channel.send(a_request())
    next_reply = await channel.send(a_request())

    assert (reply.status, reply.cause, reply.body) == (0, Cause.TOO_LARGE, b"")
    assert reply.detail == "the reply is larger than 1000 bytes and was cut off"
    assert next_reply.status == 200
    assert [received.connection for received in server.received] == [1, 2]


@pytest.mark.parametrize(
    "packets",
    [
        [b"HTTP/1.1 200 OK\r\n", *[b"X-More: " + b"x" * 90 + b"\r\n"] * 15],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 10] * 15,
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1;" + b"x" * 90 + b"\r\nx\r\n"] * 15],
    ],
    ids=["headers", "interim replies", "chunk extensions"],
)
async def test_what_never_becomes_a_body_counts_for_the_cap_too(
    serve: Serve, open_lean: OpenChannel, packets: list[bytes]
) -> None:
    """Headers without end would fill the memory as well as a body does; aiohttp has limits of its own there."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*packets)
        await peer.stay()

    server = await serve(script)

    reply = await open_lean(server.url, max_reply_bytes=1000).send(a_request())

    assert reply.cause is Cause.TOO_LARGE


async def test_a_sweep_ends_what_has_run_out_of_time(serve: Serve, open_lean: OpenChannel) -> None:
    """Only that: an exchange that has time left goes on, an idle connection stays."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply())
        while await peer.request():
            asked.set()
            await answer.wait()
            await peer.say(a_reply())

    server = await serve(script)
    channel = open_lean(server.url, timeout_s=7)
    await channel.send(a_request())
    channel.sweep(time.monotonic())  # the idle connection stays
    request = a_request()
    sending = asyncio.ensure_future(channel.send(request))
    await asked.wait()

    channel.sweep(request.sent_s + 6.9)  # the one under way has time left
    assert not sending.done()
    channel.sweep(request.sent_s + 7)
    reply = await sending

    assert (reply.cause, reply.detail) == (Cause.TIMED_OUT, "no complete reply within 7 s")
    assert [received.connection for received in server.received] == [1, 1]


async def test_a_slow_reply_times_out(serve: Serve, open_channel: OpenChannel) -> None:
    """A trickle of bytes does not help: the timeout is for the whole reply; the next request is unharmed."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply()[:-1])
        await peer.stay()

    server = await serve(first(script, says(a_reply())))
    channel = open_channel(server.url, timeout_s=0.1)

    sending = asyncio.ensure_future(channel.send(a_request()))
    while not sending.done():
        await asyncio.wait([sending], timeout=0.02)
        channel.sweep(asyncio.get_running_loop().time())
    next_reply = await channel.send(a_request())

    assert (sending.result().cause, sending.result().detail) == (Cause.TIMED_OUT, "no complete reply within 0.1 s")
    assert next_reply.status == 200


async def test_nobody_listens(open_channel: OpenChannel, free_port: int) -> None:
    """The sentence names the place."""
    reply = await open_channel(f"http://127.0.0.1:{free_port}/v1").send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.NOT_SENT)
    assert reply.detail == f"127.0.0.1:{free_port}: connection refused: is the server running?"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid", "a..invalid"])
async def test_a_host_name_that_does_not_resolve(open_channel: OpenChannel, host: str) -> None:
    """Unknown, or impossible as a name."""
    reply = await open_channel(f"http://{host}:8000/v1").send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.NOT_SENT)
    assert reply.detail == f"the host name {host} cannot be resolved: is it correct?"


@pytest.mark.parametrize("host", ["255.255.255.255", "127.1"])
async def test_an_address_that_takes_no_connection(open_channel: OpenChannel, host: str) -> None:
    """Out of reach, or written as nobody should."""
    reply = await open_channel(f"http://{host}:8000/v1").send(a_request())

    assert (reply.status, reply.cause) == (0, Cause.NOT_SENT)
    assert reply.detail.startswith(f"{host}:8000: no connection: ")


async def test_a_connection_that_never_comes_about(open_channel: OpenChannel, deaf_port: int) -> None:
    """The connect timeout ends it, and nothing was sent."""
    channel = open_channel(f"http://127.0.0.1:{deaf_port}/v1", connect_timeout_s=0.05)

    reply = await channel.send(a_request())

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail == f"127.0.0.1:{deaf_port}: no connection within the connect timeout"


async def test_a_timeout_shorter_than_the_connect_timeout(open_channel: OpenChannel, deaf_port: int) -> None:
    """Nothing was sent, so nothing may have been paid for."""
    channel = open_channel(f"http://127.0.0.1:{deaf_port}/v1", timeout_s=0.05)

    reply = await asyncio.wait_for(channel.send(a_request()), timeout=5)

    assert reply.cause is Cause.NOT_SENT


async def test_a_tls_handshake_that_never_ends(serve: Serve, open_channel: OpenChannel) -> None:
    """The connect timeout covers the handshake too."""
    server = await serve(Peer.stay)
    channel = open_channel(f"https://127.0.0.1:{server.port}/v1", connect_timeout_s=0.05)

    reply = await channel.send(a_request())

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail == f"127.0.0.1:{server.port}: no connection within the connect timeout"


async def test_https_to_a_plain_server(serve: Serve, open_channel: OpenChannel) -> None:
    """The sentence says that it was TLS that failed."""

    async def script(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.stay()

    server = await serve(script)

    reply = await open_channel(f"https://127.0.0.1:{server.port}/v1").send(a_request())

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith(f"127.0.0.1:{server.port}: no TLS connection: the server does not speak TLS")


async def test_a_certificate_that_nobody_vouches_for(
    serve: Serve, open_channel: OpenChannel, server_tls: ssl.SSLContext
) -> None:
    """Nothing is sent, least of all the key, and the sentence names the certificate."""
    server = await serve(says(a_reply()), tls=server_tls)

    reply = await open_channel(f"https://localhost:{server.port}/v1").send(a_request())

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith(f"localhost:{server.port}: the TLS certificate cannot be verified: ")
    assert "certificate" in reply.detail.removeprefix(f"localhost:{server.port}: the TLS certificate")
    assert server.received == []


ASK_OVER_TLS = """
    import asyncio, sys, uvloop
    from llmblast.models import Attempt, Request
    from llmblast.sending import TRANSPORTS
    from tests.openai_provider import make_target
    from llmblast.settings import EndpointSettings

    async def main(url):
        target = make_target(EndpointSettings(url=url), "m", "sk-1")
        for name, open_channel in TRANSPORTS.items():
            channel = open_channel(target, 10, 10)
            for _ in range(2):
                now = asyncio.get_running_loop().time()
                reply = await channel.send(Attempt(Request(1, "", b"", 1, body=b"{}"), sent_s=now))
                print(name, reply.status, reply.body.decode(), reply.detail)
            await channel.close()

    uvloop.run(main(sys.argv[1])) if sys.argv[2] == "uvloop" else asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_certificate_that_the_environment_trusts(
    serve: Serve, server_tls: ssl.SSLContext, certificate: Path, loop: str
) -> None:
    """SSL_CERT_FILE is read when a process starts, so a process it is; both transports keep their connection."""
    server = await serve(says(a_reply()), tls=server_tls)
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(ASK_OVER_TLS)]
    environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}

    done = await asyncio.to_thread(
        subprocess.run,
        [*command, f"https://localhost:{server.port}/v1", loop],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.stdout.splitlines() == ['lean 200 {"ok":1} '] * 2 + ['session 200 {"ok":1} '] * 2, done.stderr
    assert [received.connection for received in server.received] == [1, 1, 2, 2]


async def test_the_key_shows_nowhere(serve: Serve, open_channel: OpenChannel, free_port: int) -> None:
    """Not in a repr, and not in what is told of a failure."""
    echo = a_reply(orjson.dumps({"error": {"message": "no"}}), status="401 Unauthorized")
    server = await serve(first(says(b"garbage\r\n"), says(echo)))
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()), await channel.send(a_request())]
    replies.append(await open_channel(f"http://127.0.0.1:{free_port}/v1").send(a_request()))

    told = repr(replies) + repr(a_target(server.url)) + repr(channel) + str(a_target(server.url))
    assert KEY not in told
    assert "Authorization" not in told


class _opened:  # noqa: N801 -- used like a function
    """A channel of one transport, closed at the end."""

    def __init__(self, transport: str, url: str) -> None:
        self._channel = TRANSPORTS[transport](a_target(url), 10, 10)

    async def __aenter__(self) -> Channel:
        return self._channel

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()


async def test_a_connection_opened_ahead_carries_the_first_request(serve: Serve, open_lean: OpenChannel) -> None:
    """The first request is not a handshake later than the ones that follow."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    await channel.warm_up()

    reply = await channel.send(a_request())

    assert reply.status == 200
    assert len(server.peers) == 1


async def test_as_many_are_opened_ahead_as_a_paced_run_needs(serve: Serve, open_lean: OpenChannel) -> None:
    """None of a crowd of first requests has to wait for a connection."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    was_fresh = []
    listener = ChannelListener(on_delayed_send=lambda attempt, is_fresh: was_fresh.append(is_fresh))
    await channel.warm_up(40)

    replies = await asyncio.gather(*(channel.send(a_request(), listener) for _ in range(41)))

    assert {reply.status for reply in replies} == {200}
    assert was_fresh.count(True) == 1
    assert len(server.peers) == 41


async def test_one_that_leaves_late_on_a_kept_connection_is_told_too(serve: Serve, open_lean: OpenChannel) -> None:
    """This process was busy, and the provider counts when it comes."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    was_fresh = []
    listener = ChannelListener(on_delayed_send=lambda attempt, is_fresh: was_fresh.append(is_fresh))
    await channel.warm_up()
    request = a_request()
    request.sent_s = time.monotonic() - 0.1

    await channel.send(request, listener)

    assert was_fresh == [False]
    assert len(server.peers) == 1


async def test_who_is_gone_is_told_in_the_same_words_from_the_second_connection_on(
    serve: Serve, open_lean: OpenChannel
) -> None:
    """The loop opens it, without a resolver."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    await asyncio.gather(channel.send(a_request()), channel.send(a_request()))
    await server.stop()

    replies = [await channel.send(a_request()) for _ in range(4)]

    assert replies[-1].cause is Cause.NOT_SENT
    assert "connection refused" in replies[-1].detail


async def test_warming_up_against_nobody_is_no_failure(open_channel: OpenChannel) -> None:
    """The first send will tell what is wrong."""
    channel = open_channel("http://127.0.0.1:9/v1")

    await channel.warm_up()

    assert (await channel.send(a_request())).cause is Cause.NOT_SENT


async def test_a_send_that_is_cancelled_as_its_time_runs_out_is_cancelled(
    serve: Serve, open_channel: OpenChannel
) -> None:
    """Whoever cancels it wants no reply, not even the one that it timed out."""
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.stay()

    server = await serve(script)
    channel = open_channel(server.url, timeout_s=5)
    sending = asyncio.ensure_future(channel.send(a_request()))
    await asked.wait()

    channel.sweep(time.monotonic() + 6)
    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sending


@pytest.mark.parametrize("size_bytes", [10, 16_384, 16_385, 65_537, 1_000_000])
async def test_a_prompt_of_any_length_gets_its_model(serve: Serve, open_channel: OpenChannel, size_bytes: int) -> None:
    """In front, whether that takes a copy or not."""
    server = await serve(says(a_reply()))
    body = b'{"q":"%b"}' % (b"x" * (size_bytes - len(b'{"q":""}')))

    reply = await open_channel(server.url).send(a_request(body, needs_model=True))

    assert reply.status == 200
    assert server.received[0].body == b'{"model":"m",' + body[1:]


class Gate:
    """A pace that lets each request leave when the test says so."""

    def __init__(self) -> None:
        self.leave: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked = asyncio.Event()
        self.listener = ChannelListener(leave=self._ask)

    async def asked(self) -> None:
        await asyncio.wait_for(self._asked.wait(), 5)

    def _ask(self, attempt: Attempt, is_fresh: bool) -> asyncio.Future[None]:
        self._asked.set()
        return self.leave


async def test_nothing_is_written_before_the_pace_lets_it_leave(serve: Serve, open_channel: OpenChannel) -> None:
    """The connection is open by then: what is waited for is the moment."""
    server = await serve(says(a_reply()))
    channel = open_channel(server.url)
    gate = Gate()
    sending = asyncio.ensure_future(channel.send(a_request(), gate.listener))
    await gate.asked()
    await settle()
    had_received = len(server.received)

    gate.leave.set_result(None)
    reply = await sending

    assert had_received == 0
    assert reply.status == 200
    assert len(server.peers) == 1


async def test_one_that_is_cancelled_before_it_left_leaves_no_connection_open(
    serve: Serve, open_channel: OpenChannel
) -> None:
    """The server sees its end without a request."""
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def script(peer: Peer) -> None:
        ended.set_result(await peer.request())

    server = await serve(script)
    channel = open_channel(server.url)
    gate = Gate()
    sending = asyncio.ensure_future(channel.send(a_request(), gate.listener))
    await gate.asked()

    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await asyncio.wait_for(ended, 5) is False


async def test_a_connection_that_is_closed_before_the_request_left_is_replaced(
    serve: Serve, open_lean: OpenChannel
) -> None:
    """Nothing was written to it, so nothing is known to have failed."""

    async def close_at_once(peer: Peer) -> None: ...

    server = await serve(first(close_at_once, says(a_reply())))
    channel = open_lean(server.url)
    gate = Gate()
    sending = asyncio.ensure_future(channel.send(a_request(), gate.listener))
    await gate.asked()
    await settle()
    gate.leave.set_result(None)

    reply = await asyncio.wait_for(sending, 5)

    assert reply.status == 200
    assert len(server.peers) == 2
