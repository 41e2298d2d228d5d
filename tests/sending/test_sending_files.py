"""A process that may open no more files sends with those that it has, tells it once, and blames no endpoint."""

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llmblast.sending.direct import DirectConnector
from llmblast.sending.exchange import ExchangeOwner
from llmblast.sending.fd_waiters import FdWaiters
from tests.sending.sending_wire import BODY, OpenChannel, Peer, Script, Serve, a_reply, a_request, says

ROOT = Path(__file__).parent.parent.parent
RUN_SHORT_OF_FILES = """
    import asyncio, os, resource, sys, uvloop
    from collections import Counter
    from llmblast.models import Attempt, Request
    from llmblast.sending import TRANSPORTS
    from tests.openai_provider import make_target
    from llmblast.settings import EndpointSettings

    async def tend(channel, clock):
        while True:
            await asyncio.sleep(0.02)
            channel.sweep(clock())

    async def main(url, transport, files, sends, timeout_s):
        clock = asyncio.get_running_loop().time
        channel = TRANSPORTS[transport](make_target(EndpointSettings(url=url), "m", None), timeout_s, timeout_s)
        tending = asyncio.create_task(tend(channel, clock))
        requests = [Attempt(Request(n, "", b"", n, body=b'{"n":%d}' % n), sent_s=clock()) for n in range(sends)]
        most = len(os.listdir("/proc/self/fd")) - 1 + files
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        replies = await asyncio.gather(*map(channel.send, requests))
        told = Counter((reply.status, reply.body == b'{"ok":1}', reply.detail) for reply in replies)
        for what, count in told.items():
            print(count, *what)
        tending.cancel()
        await channel.close()

    url, transport, loop, files, sends, timeout_s = sys.argv[1:]
    run = uvloop.run if loop == "uvloop" else asyncio.run
    run(main(url, transport, int(files), int(sends), float(timeout_s)))
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts its open files there")


async def run_short_of_files(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """A process of its own: the server must not run out of files, too."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(RUN_SHORT_OF_FILES), *map(str, arguments)]
    return await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@needs_proc
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_with_few_files_all_requests_are_answered(serve: Serve, transport: str, loop: str, host: str) -> None:
    """Sixty sends at once with a dozen files: those that there are carry all of them, one after the other."""
    server = await serve(says(a_reply()))
    url = server.url.replace("127.0.0.1", host)

    done = await run_short_of_files(url, transport, loop, 12, 60, 30)

    assert done.stdout == "60 200 True \n", done.stderr
    assert len(server.received) == 60
    assert len(server.peers) <= 12
    (notice,) = done.stderr.splitlines()
    assert notice.startswith("too many open files for another connection: this process may have ")
    assert notice.endswith("fewer requests are in flight than allowed: raise ulimit -n, or lower -j")


@needs_proc
async def test_with_no_file_at_all_the_timeout_ends_the_wait(serve: Serve, transport: str) -> None:
    """Nothing was sent; and the sentence does not blame the endpoint."""
    server = await serve(says(a_reply()))

    done = await run_short_of_files(server.url, transport, "asyncio", 0, 3, 0.2)

    (told,) = done.stdout.splitlines()
    assert told.startswith("3 0 False too many open files for another connection: this process may have "), done.stderr
    assert server.peers == []


def answers_when(asked: asyncio.Event, may_answer: asyncio.Event) -> Script:
    """Sets `asked` at a request, and answers it once it may."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            asked.set()
            await may_answer.wait()
            await peer.say(a_reply())

    return script


async def _none_left(owner: ExchangeOwner) -> None:
    """What `Connector.open` says when it found no file."""


async def test_a_connection_goes_from_hand_to_hand(
    serve: Serve, open_lean: OpenChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they came, so that none waits for the end of the run."""
    asked, may_answer = asyncio.Event(), asyncio.Event()
    server = await serve(answers_when(asked, may_answer))
    channel = open_lean(server.url)
    sending = [asyncio.ensure_future(channel.send(a_request(b'{"n":0}')))]
    await asked.wait()
    monkeypatch.setattr(DirectConnector, "open", lambda self, owner: _none_left(owner))
    monkeypatch.setattr(FdWaiters, "_is_logged", True)
    for number in range(1, 5):
        sending.append(asyncio.ensure_future(channel.send(a_request(b'{"n":%d}' % number))))
        await asyncio.sleep(0)
    sending[3].cancel()
    channel.sweep(0.0)  # it tries once more in vain, and stays the first
    may_answer.set()
    replies = await asyncio.gather(*sending, return_exceptions=True)

    assert [received.body for received in server.received] == [b'{"n":%d}' % number for number in (0, 1, 2, 4)]
    assert [isinstance(reply, BaseException) for reply in replies] == [False, False, False, True, False]
    assert len(server.peers) == 1


async def test_a_connection_that_comes_free_meanwhile_is_not_missed(
    serve: Serve, open_lean: OpenChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another one is tried in vain, the only one that there is becomes idle: nobody would give it back later."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def open_in_vain(connector: DirectConnector, owner: ExchangeOwner) -> None:
        may_answer.set()
        await sending[0]

    server = await serve(answers_when(asked, may_answer))
    channel = open_lean(server.url)
    sending = [asyncio.ensure_future(channel.send(a_request()))]
    await asked.wait()
    monkeypatch.setattr(DirectConnector, "open", open_in_vain)
    monkeypatch.setattr(FdWaiters, "_is_logged", True)
    sending.append(asyncio.ensure_future(channel.send(a_request())))

    reply = await asyncio.wait_for(sending[1], 5)

    assert reply.status == 200
    assert len(server.peers) == 1


async def test_a_file_that_is_closed_is_used(
    serve: Serve, open_lean: OpenChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the one connection that there was: whoever waits opens the next one."""
    asked, may_close = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await may_close.wait()
        await peer.say(a_reply(BODY, "Connection: close"))

    server = await serve(script)
    channel = open_lean(server.url)
    sending = [asyncio.ensure_future(channel.send(a_request()))]
    await asked.wait()
    with monkeypatch.context() as patch:
        patch.setattr(DirectConnector, "open", lambda self, owner: _none_left(owner))
        patch.setattr(FdWaiters, "_is_logged", True)
        sending.append(asyncio.ensure_future(channel.send(a_request())))
        await asyncio.sleep(0)
    may_close.set()
    replies = await asyncio.gather(*sending)

    assert [reply.status for reply in replies] == [200, 200]
    assert [received.connection for received in server.received] == [1, 2]


async def test_a_connection_that_cannot_be_opened_ahead_for_want_of_a_file(
    serve: Serve, open_lean: OpenChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is no word against the endpoint."""
    server = await serve(says(a_reply()))
    channel = open_lean(server.url)
    monkeypatch.setattr(DirectConnector, "open", lambda self, owner: _none_left(owner))

    assert await channel.warm_up() is None
