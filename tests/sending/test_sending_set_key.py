"""Another key for the requests that follow, on both transports."""

import asyncio

from tests.sending.sending_wire import KEY, OpenChannel, Peer, Serve, a_reply, a_request, a_target, says

NEW_KEY = "sk-a-new-one-to-hide"


async def test_later_requests_carry_the_new_key(serve: Serve, open_channel: OpenChannel) -> None:
    """On the connection that is kept, for every path; all else stays as it was."""
    server = await serve(says(a_reply()))
    channel = open_channel(server.url)
    paths = ("chat/completions", "embeddings")

    for path in paths:
        await channel.send(a_request(path=path))
    channel.set_key(NEW_KEY)
    for path in paths:
        await channel.send(a_request(path=path))

    before, after = server.received[:2], server.received[2:]
    assert [received.headers["Authorization"] for received in before] == [f"Bearer {KEY}"] * 2
    assert [received.headers["Authorization"] for received in after] == [f"Bearer {NEW_KEY}"] * 2
    for old, new in zip(before, after, strict=True):
        assert {**old.headers, "Authorization": ""} == {**new.headers, "Authorization": ""}
    assert len(server.peers) == 1


async def test_a_request_under_way_keeps_its_key(serve: Serve, open_channel: OpenChannel) -> None:
    """Its reply comes as it would have."""
    arrived, may_answer = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request():
            authorization = peer.requests[-1].headers["Authorization"]
            if authorization.endswith(KEY):
                arrived.set()
                await may_answer.wait()
            await peer.say(a_reply(authorization.encode()))

    server = await serve(script)
    channel = open_channel(server.url)

    early = asyncio.create_task(channel.send(a_request()))
    await arrived.wait()
    channel.set_key(NEW_KEY)
    late_reply = await channel.send(a_request())
    may_answer.set()

    assert (await early).body == f"Bearer {KEY}".encode()
    assert late_reply.body == f"Bearer {NEW_KEY}".encode()


def test_an_authorization_of_the_endpoints_own_stays() -> None:
    """What its headers say goes before any key."""
    target = a_target("http://gpu1", headers={"authorization": "Basic abc"})

    assert target.with_key(NEW_KEY).headers == target.headers
    assert NEW_KEY not in target.with_key(NEW_KEY).headers.values()
