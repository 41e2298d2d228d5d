"""Proxies, by a setting or by the environment: both transports go through them; a proxy's failure is called that."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Cause, Reply
from llmblast.sending import TRANSPORTS, Channel
from llmblast.sending.proxies import find_proxy, ignored_variable, is_excluded
from tests.openai_provider import make_target
from tests.proxy_server import HttpProxy, SocksProxy
from tests.sending.sending_wire import KEY, Peer, Serve, a_reply, a_request, says

LOGIN = "user:p@ss-word"
IN_URL = "user:p%40ss-word"


def an_endpoint(url: str = "https://gpu.invalid/v1", **settings: str) -> EndpointSettings:
    return EndpointSettings(url=url, name="gpu", **settings)  # type: ignore[arg-type] # fields of EndpointSettings


@asynccontextmanager
async def opened(
    transport: str, endpoint: EndpointSettings, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Channel]:
    channel = TRANSPORTS[transport](make_target(endpoint, None, KEY, environ), 10.0, 5.0)
    try:
        yield channel
    finally:
        await channel.close()


async def reply_of(transport: str, endpoint: EndpointSettings, environ: Mapping[str, str] | None = None) -> Reply:
    async with opened(transport, endpoint, environ) as channel:
        return await channel.send(a_request())


async def test_a_tunnel_to_an_https_endpoint(serve: Serve, transport: str, server_tls: ssl.SSLContext, ca: str) -> None:
    """The proxy gets CONNECT with its user and password; the endpoint gets the request, and nothing of the proxy."""
    server = await serve(says(a_reply()), tls=server_tls)
    async with HttpProxy(server.port, LOGIN) as proxy:
        environ = {"https_proxy": f"http://{IN_URL}@127.0.0.1:{proxy.port}"}
        async with opened(transport, an_endpoint("https://localhost/v1", ca_file=ca), environ) as channel:
            replies = [await channel.send(a_request()) for _ in range(2)]

    assert [reply.body for reply in replies] == [b'{"ok":1}'] * 2
    assert proxy.asked == ["CONNECT localhost:443 HTTP/1.1"]
    assert server.received[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert "Proxy-Authorization" not in server.received[0].headers
    assert server.received[0].headers["Host"] == "localhost"


@pytest.mark.parametrize("login", ["", LOGIN])
async def test_a_proxy_gets_no_key(transport: str, login: str) -> None:
    """The CONNECT has what the proxy needs, and nothing that is meant for the endpoint."""
    async with HttpProxy(login=login, refuses="403 Forbidden") as proxy:
        user = f"{IN_URL}@" if login else ""
        await reply_of(transport, an_endpoint(proxy=f"http://{user}127.0.0.1:{proxy.port}"))

    assert KEY not in "".join(proxy.heads)
    assert ("Proxy-Authorization: Basic " in proxy.heads[0]) is bool(login)
    assert proxy.heads[0].count("Authorization") == bool(login)


async def test_a_whole_url_for_an_http_endpoint(serve: Serve, transport: str) -> None:
    """On one connection, as long as the proxy keeps it."""
    server = await serve(says(a_reply()))
    async with HttpProxy(server.port, LOGIN) as proxy:
        endpoint = an_endpoint("http://gpu.invalid:8000/v1?x=1", proxy=f"{IN_URL}@127.0.0.1:{proxy.port}")
        async with opened(transport, endpoint) as channel:
            reply = await channel.send(a_request())

    assert reply.body == b'{"ok":1}'
    assert proxy.asked == ["POST http://gpu.invalid:8000/v1/chat/completions?x=1 HTTP/1.1"]
    assert server.received[0].headers["Host"] == "gpu.invalid:8000"


@pytest.mark.parametrize("url", ["https://gpu.invalid/v1", "http://gpu.invalid/v1"])
@pytest.mark.parametrize("login", ["", "user:wrong-password@"])
async def test_a_wrong_password_is_the_proxys_and_nothing_was_sent(transport: str, url: str, login: str) -> None:
    """Never the endpoint's 407; neither password nor user are shown."""
    async with HttpProxy(login=LOGIN) as proxy:
        endpoint = an_endpoint(url, proxy=f"http://{login}127.0.0.1:{proxy.port}")

        reply = await reply_of(transport, endpoint)

    port = urlsplit(url).port or (443 if url.startswith("https") else 80)
    why = "proxy user or password is wrong" if login else "a user and a password are needed"
    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith(
        f"the proxy http://127.0.0.1:{proxy.port} refuses gpu.invalid:{port}: HTTP 407: {why}"
    )
    assert "wrong-password" not in reply.detail
    assert "user:" not in reply.detail


@pytest.mark.parametrize("status", ["403 Forbidden", "502 Bad Gateway", "418 I'm a teapot"])
async def test_a_proxy_that_digs_no_tunnel(transport: str, status: str) -> None:
    """Nothing was sent, so nothing may have been paid for."""
    async with HttpProxy(refuses=status) as proxy:
        reply = await reply_of(transport, an_endpoint(proxy=f"http://127.0.0.1:{proxy.port}"))

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith(
        f"the proxy http://127.0.0.1:{proxy.port} refuses gpu.invalid:443: HTTP {status[:3]}"
    )


@pytest.mark.parametrize("url", ["https://gpu.invalid/v1", "http://gpu.invalid/v1"])
async def test_a_proxy_that_nobody_listens_at(free_port: int, transport: str, url: str) -> None:
    """The sentence names the proxy, not the endpoint, which may be well."""
    reply = await reply_of(transport, an_endpoint(url, proxy=f"http://{IN_URL}@127.0.0.1:{free_port}"))

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail == (
        f"the proxy http://127.0.0.1:{free_port} cannot be reached: connection refused: is it running?"
    )


async def test_a_proxy_whose_name_nobody_knows(transport: str) -> None:
    """That is no unknown endpoint."""
    reply = await reply_of(transport, an_endpoint(proxy=f"http://{IN_URL}@proxy.invalid:3128"))

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail == "the proxy http://proxy.invalid:3128 cannot be reached: its host name cannot be resolved"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["closes", "no HTTP"])
async def test_a_proxy_that_is_none(serve: Serve, transport: str, answer: bytes) -> None:
    """Whatever it does instead."""

    async def script(peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say(*([answer] if answer else []))

    server = await serve(script)

    reply = await reply_of(transport, an_endpoint(proxy=f"http://127.0.0.1:{server.port}"))

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith(f"the proxy http://127.0.0.1:{server.port} ")


@pytest.mark.parametrize(("scheme", "host"), [("socks5h", "gpu.invalid"), ("socks5", "127.0.0.1")])
async def test_a_socks_proxy(serve: Serve, transport: str, scheme: str, host: str) -> None:
    """With `h` it resolves the name itself, as curl has it."""
    server = await serve(says(a_reply()))
    async with SocksProxy(server.port, "user:password") as proxy:
        endpoint = an_endpoint(f"http://{host}:81/v1", proxy=f"{scheme}://user:password@127.0.0.1:{proxy.port}")
        reply = await reply_of(transport, endpoint)

    assert reply.body == b'{"ok":1}'
    assert proxy.asked == [f"{host}:81"]
    assert server.received[0].line == "POST /v1/chat/completions HTTP/1.1"


async def test_a_socks_proxy_under_tls(serve: Serve, transport: str, server_tls: ssl.SSLContext, ca: str) -> None:
    """The endpoint's certificate is verified as without a proxy."""
    server = await serve(says(a_reply()), tls=server_tls)
    async with SocksProxy(server.port) as proxy:
        endpoint = an_endpoint("https://localhost/v1", proxy=f"socks5h://127.0.0.1:{proxy.port}", ca_file=ca)
        reply = await reply_of(transport, endpoint)

    assert reply.body == b'{"ok":1}'


async def test_a_socks_proxy_that_refuses(transport: str, free_port: int) -> None:
    """Its password is not shown either."""
    async with SocksProxy(login="user:password") as proxy:
        url = f"socks5h://user:wrong-one@127.0.0.1:{proxy.port}"
        refused = await reply_of(transport, an_endpoint(proxy=url))
    dead = await reply_of(transport, an_endpoint(proxy=f"socks5h://user:wrong-one@127.0.0.1:{free_port}"))

    assert (refused.cause, dead.cause) == (Cause.NOT_SENT, Cause.NOT_SENT)
    assert refused.detail.startswith(f"the proxy socks5h://127.0.0.1:{proxy.port} refuses: ")
    assert dead.detail == (
        f"the proxy socks5h://127.0.0.1:{free_port} cannot be reached: connection refused: is it running?"
    )
    assert "wrong-one" not in refused.detail + dead.detail


def test_socks_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the extra."""
    monkeypatch.setattr("llmblast.sending.proxies.find_spec", lambda name: None)

    with pytest.raises(UsageError, match=r"is a SOCKS proxy, which needs an extra: pip install 'llmblast\[socks\]'"):
        find_proxy(an_endpoint(proxy="socks5://user:secret@h:1"), {})


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://h/v1", {"https_proxy": "http://p:1"}, "http://p:1"),
        ("https://h/v1", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h/v1", {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2"}, "http://p:1"),
        ("https://h/v1", {"http_proxy": "http://p:1"}, None),
        ("https://h/v1", {"all_proxy": "http://p:1"}, "http://p:1"),
        ("https://h/v1", {"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:2"}, "http://p:2"),
        ("https://h/v1", {"https_proxy": ""}, None),
        ("http://h/v1", {"http_proxy": "http://p:1"}, "http://p:1"),
        ("http://h/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://h/v1", {"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:2"}, "http://p:2"),
        ("http://127.0.0.1/v1", {"http_proxy": "p:1"}, "http://p:1"),
        ("http://localhost/v1", {"http_proxy": "p"}, "http://p:1080"),
        ("https://h/v1", {"https_proxy": "https://p"}, "https://p:443"),
        ("https://h/v1", {"https_proxy": "p:1", "no_proxy": "h"}, None),
        ("https://h/v1", {"https_proxy": "p:1", "NO_PROXY": "h"}, None),
        ("mock:", {"http_proxy": "p:1"}, None),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], proxy: str | None) -> None:
    """The rules are curl's."""
    found = find_proxy(an_endpoint(url), environ)

    assert (None if found is None else str(found)) == proxy


@pytest.mark.parametrize(("setting", "proxy"), [("none", None), ("NONE", None), ("http://mine:1", "http://mine:1")])
def test_the_setting_goes_first(setting: str, proxy: str | None) -> None:
    """Even before NO_PROXY."""
    found = find_proxy(an_endpoint(proxy=setting), {"https_proxy": "http://p:1", "no_proxy": "*"})

    assert (None if found is None else str(found)) == proxy


@pytest.mark.parametrize(
    ("listed", "url", "is_direct"),
    [
        ("*", "https://h/v1", True),
        ("example.com", "https://example.com/v1", True),
        ("example.com", "https://api.example.com/v1", True),
        (".example.com", "https://api.example.com/v1", True),
        (".example.com", "https://example.com/v1", True),
        ("*.example.com", "https://api.example.com/v1", True),
        ("EXAMPLE.com.", "https://api.Example.COM/v1", True),
        ("example.com", "https://notexample.com/v1", False),
        ("a, b c", "https://c/v1", True),
        ("example.com:8443", "https://example.com:8443/v1", True),
        ("example.com:443", "https://example.com/v1", True),
        ("example.com:8443", "https://example.com/v1", False),
        ("10.0.0.0/8", "http://10.1.2.3:8000/v1", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000/v1", False),
        ("10.1.2.3", "http://10.1.2.3/v1", True),
        ("10.1.2.3:8000", "http://10.1.2.3:8000/v1", True),
        ("10.1.2.3:8000", "http://10.1.2.3:8001/v1", False),
        ("::1", "http://[::1]:8000/v1", True),
        ("[::1]", "http://[::1]:8000/v1", True),
        ("[::1]:8000", "http://[::1]:8000/v1", True),
        ("[::1]:8000", "http://[::1]:9000/v1", False),
        ("fd00::/8", "http://[fd12::1]/v1", True),
        ("127.0.0.1", "http://localhost/v1", False),
        ("0.0.1", "http://127.0.0.1/v1", False),
        ("", "https://h/v1", False),
        (",, ,", "https://h/v1", False),
    ],
)
def test_what_no_proxy_names(listed: str, url: str, *, is_direct: bool) -> None:
    """Names with their subdomains, ports, addresses, networks."""
    assert is_excluded(urlsplit(url), {"no_proxy": listed}) is is_direct


@pytest.mark.parametrize(
    "url", ["http://user:secret@", "http://user:sec ret@h:1", "http://user:secret@h:99999", "ftp://user:secret@h:1",
            "user:secret/x@h:1", "://secret@h"]
)  # fmt: skip
def test_a_wrong_proxy_is_told_without_its_password(url: str) -> None:
    """And where it stands."""
    for settings, environ, place in (({"proxy": url}, {}, "proxy"), ({}, {"ALL_PROXY": url}, "the variable ALL_PROXY")):
        with pytest.raises(UsageError) as caught:
            find_proxy(an_endpoint(**settings), environ)

        assert str(caught.value).startswith(f"endpoint gpu: {place}: ")
        assert "sec" not in str(caught.value)


def test_a_proxy_shows_no_password() -> None:
    """Neither as text nor in a repr."""
    proxy = find_proxy(an_endpoint(proxy=f"http://{IN_URL}@h:1"), {})

    assert proxy is not None
    assert (proxy.user, proxy.password) == ("user", "p@ss-word")
    assert "ss-word" not in f"{proxy} {proxy!r}"


def test_a_variable_that_is_not_read() -> None:
    """Anybody may set HTTP_PROXY of a CGI script."""
    environ = {"HTTP_PROXY": "http://p:1"}

    assert ignored_variable(an_endpoint("http://h/v1"), environ) == "HTTP_PROXY"
    assert ignored_variable(an_endpoint("http://h/v1"), {**environ, "no_proxy": "h"}) is None
    assert ignored_variable(an_endpoint("https://h/v1"), environ) is None
