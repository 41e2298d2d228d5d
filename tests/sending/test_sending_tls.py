"""Certificates of an endpoint's own settings, and what a failed handshake tells a person to do."""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Cause, Reply
from llmblast.sending import TRANSPORTS, ChannelListener
from llmblast.sending.tls import certificate_notes, new_tls_context
from tests.openai_provider import make_target
from tests.sending.sending_wire import KEY, OpenChannel, Peer, Serve, a_reply, a_request, says

HTTP2_SETTINGS = b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00" * 2
HTTP2_GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"


def an_endpoint(url: str = "https://gpu.example/v1", **settings: str) -> EndpointSettings:
    return EndpointSettings(url=url, name="gpu", **settings)  # type: ignore[arg-type] # fields of EndpointSettings


async def reply_of(transport: str, endpoint: EndpointSettings) -> Reply:
    channel = TRANSPORTS[transport](make_target(endpoint, None, KEY), 10.0, 5.0)
    try:
        return await channel.send(a_request())
    finally:
        await channel.close()


@pytest.fixture(scope="session")
def client(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a client certificate in cert.pem, its key in key.pem, and both in both.pem."""
    folder = tmp_path_factory.mktemp("client")
    issued = authority.issue_cert("someone@example.com")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "both.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    (folder / "other.pem").write_bytes(authority.issue_cert("other@example.com").private_key_pem.bytes())
    (folder / "junk.pem").write_text("no certificate\n")
    (folder / "empty.pem").touch()
    return folder


def strict_tls(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server that wants a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


async def test_a_certificate_that_the_system_does_not_know(
    serve: Serve, transport: str, server_tls: ssl.SSLContext, ca: str
) -> None:
    """With ca_file it is trusted; without, the sentence names the setting."""
    server = await serve(says(a_reply()), tls=server_tls)
    url = f"https://localhost:{server.port}/v1"

    unknown = await reply_of(transport, an_endpoint(url))
    known = await reply_of(transport, an_endpoint(url, ca_file=ca))

    assert unknown.cause is Cause.NOT_SENT
    assert "set ca_file=FILE to the issuer's certificate" in unknown.detail
    assert known.body == b'{"ok":1}'


async def test_a_certificate_that_signed_itself(serve: Serve, transport: str, client: Path) -> None:
    """It can be trusted as its own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_self_signed(client))
    server = await serve(says(a_reply()), tls=context)
    url = f"https://localhost:{server.port}/v1"

    unknown = await reply_of(transport, an_endpoint(url))
    known = await reply_of(transport, an_endpoint(url, ca_file=str(client / "self.pem")))

    assert "self-signed certificate: if you trust it, set ca_file=FILE" in unknown.detail
    assert known.body == b'{"ok":1}'


def _self_signed(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "self.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "self.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return folder / "self.pem", folder / "self.key"


@pytest.mark.parametrize(
    ("host", "not_after", "advice"),
    [
        ("localhost", datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1), "renew it at the server"),
        ("gpu.example", None, "write the host name of the certificate in the URL instead of localhost"),
    ],
    ids=["expired", "another host's"],
)
async def test_a_certificate_that_is_wrong(
    serve: Serve,
    transport: str,
    authority: trustme.CA,
    ca: str,
    host: str,
    not_after: datetime.datetime | None,
    advice: str,
) -> None:
    """Who made it is trusted: the sentence says what else to do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, not_after=not_after).configure_cert(context)
    server = await serve(says(a_reply()), tls=context)

    reply = await reply_of(transport, an_endpoint(f"https://localhost:{server.port}/v1", ca_file=ca))

    assert reply.cause is Cause.NOT_SENT
    assert advice in reply.detail
    assert ".:" not in reply.detail


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "files",
    [{"client_cert": "both.pem"}, {"client_cert": "cert.pem", "client_key": "key.pem"}],
    ids=["one file", "two files"],
)
async def test_a_client_certificate(
    serve: Serve,
    transport: str,
    authority: trustme.CA,
    ca: str,
    client: Path,
    version: ssl.TLSVersion,
    files: dict[str, str],
) -> None:
    """With its key in the same file or in another."""
    server = await serve(says(a_reply()), tls=strict_tls(authority, version))
    settings = {name: str(client / file) for name, file in files.items()}

    reply = await reply_of(transport, an_endpoint(f"https://localhost:{server.port}/v1", ca_file=ca, **settings))

    assert reply.body == b'{"ok":1}'


@contextmanager
def openssl_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server that ends a failed handshake with OpenSSL's alert; asyncio's own ends it without a word."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                plain, _ = listener.accept()
                with plain, plain.dup() as raw, suppress(OSError):
                    with suppress(ssl.SSLError), context.wrap_socket(plain, server_side=True) as secured:
                        secured.recv(1)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(65536):  # a close with unread bytes would reset the connection, alert and all
                        pass

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_server_that_wants_a_client_certificate(
    transport: str, authority: trustme.CA, ca: str, version: ssl.TLSVersion
) -> None:
    """It says so in the handshake, or after it under TLS 1.3."""
    with openssl_server(strict_tls(authority, version)) as port:
        reply = await reply_of(transport, an_endpoint(f"https://localhost:{port}/v1", ca_file=ca))

    assert reply.cause is Cause.NOT_SENT
    assert "client_cert=FILE" in reply.detail


async def test_a_client_certificate_of_a_stranger(
    transport: str, authority: trustme.CA, ca: str, tmp_path: Path
) -> None:
    """The server does not know who made it."""
    trustme.CA().issue_cert("me@example.com").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "mine.pem"))
    with openssl_server(strict_tls(authority, ssl.TLSVersion.TLSv1_3)) as port:
        settings = {"ca_file": ca, "client_cert": str(tmp_path / "mine.pem")}
        reply = await reply_of(transport, an_endpoint(f"https://localhost:{port}/v1", **settings))

    assert reply.cause is Cause.NOT_SENT
    assert "the server rejects the client certificate: check client_cert" in reply.detail


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ca_file": "none.pem"}, "ca_file {folder}/none.pem cannot be read: No such file or directory"),
        ({"ca_file": "."}, "ca_file {folder}/. cannot be read: Is a directory"),
        ({"ca_file": "junk.pem"}, "ca_file {folder}/junk.pem: has no certificate in it: name a PEM file"),
        ({"ca_file": "empty.pem"}, "ca_file {folder}/empty.pem: has no certificate in it: name a PEM file"),
        ({"ca_file": "key.pem"}, "ca_file {folder}/key.pem: has no certificate in it: name a PEM file"),
        ({"client_cert": "none.pem"}, "client_cert {folder}/none.pem cannot be read: No such file or directory"),
        ({"client_cert": "both.pem", "client_key": "none.pem"}, "client_key {folder}/none.pem cannot be read: No such"),
        ({"client_cert": "cert.pem"}, "or its key is in another file: add client_key=FILE"),
        (
            {"client_cert": "junk.pem"},
            "client_cert {folder}/junk.pem: it is not a PEM file of a certificate with its key",
        ),
        ({"client_cert": "cert.pem", "client_key": "other.pem"}, "client_key belongs to another certificate"),
        ({"client_cert": "cert.pem", "client_key": "junk.pem"}, "client_cert or client_key is not a PEM file"),
        (
            {"client_cert": "cert.pem", "client_key": "locked.pem"},
            "its key is encrypted: name a client_key=FILE",
        ),
        ({"client_key": "key.pem"}, "client_key needs client_cert=FILE"),
    ],
)
def test_files_that_cannot_be_used(client: Path, settings: dict[str, str], sentence: str) -> None:
    """At the start, with the setting and the file."""
    _write_encrypted_key(client)
    paths = {name: f"{client}/{file}" for name, file in settings.items()}

    with pytest.raises(UsageError) as caught:
        new_tls_context(an_endpoint(**paths))

    assert str(caught.value).startswith("endpoint gpu: ")
    assert sentence.format(folder=client) in str(caught.value)


def _write_encrypted_key(folder: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"passphrase")
    form = serialization.PrivateFormat.PKCS8
    (folder / "locked.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, how))


def test_certificates_without_tls() -> None:
    """They would not be used."""
    with pytest.raises(UsageError, match="endpoint gpu: ca_file is for https:// URLs only"):
        new_tls_context(an_endpoint("http://gpu.example/v1", ca_file="x.pem"))


def test_variables_that_name_no_certificates(client: Path, ca: str) -> None:
    """OpenSSL would pass over them without a word."""
    missing = certificate_notes({"SSL_CERT_FILE": f"{client}/none.pem", "SSL_CERT_DIR": f"{client}/none:{client}"})
    junk = certificate_notes({"SSL_CERT_FILE": f"{client}/junk.pem"})

    assert missing == [
        f"SSL_CERT_FILE {client}/none.pem: cannot be read and is not used: No such file or directory",
        f"SSL_CERT_DIR {client}/none: is not a directory and is not used",
    ]
    assert junk == [f"SSL_CERT_FILE {client}/junk.pem: has no certificate in it and is not used"]
    assert certificate_notes({"SSL_CERT_FILE": ca, "SSL_CERT_DIR": str(client)}) == certificate_notes({}) == []


async def test_tls_on_a_port_without(serve: Serve, transport: str) -> None:
    """The sentence says which URL is right."""
    server = await serve(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"))

    async def script(peer: Peer) -> None:
        await peer._reader.read(1)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    server = await serve(script)

    reply = await reply_of(transport, an_endpoint(f"https://localhost:{server.port}/v1"))

    assert reply.cause is Cause.NOT_SENT
    assert "write its URL with http://" in reply.detail


@asynccontextmanager
async def http2_only(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A TLS server that ends the handshake unless the client offers HTTP/2, as RFC 7301 section 3.2 has it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HTTP2_SETTINGS)
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_tls_server_of_http2_alone(transport: str, server_tls: ssl.SSLContext, ca: str) -> None:
    """It answers with its first frame."""
    async with http2_only(server_tls) as port:
        reply = await reply_of(transport, an_endpoint(f"https://localhost:{port}/v1", ca_file=ca))

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith("the server speaks HTTP/2 only: ")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (HTTP2_SETTINGS, "the server speaks HTTP/2 only: "),
        (HTTP2_GOAWAY, "the server speaks HTTP/2 only: "),
        (b"SSH-2.0-OpenSSH_9.6p1\r\n", "the server speaks SSH, not HTTP: "),
        (b"220 mail.example ESMTP Postfix\r\n", "the server speaks SMTP or FTP, not HTTP: "),
        (b"+OK POP3 ready\r\n", "the server speaks POP3, not HTTP: "),
        (b"* OK IMAP4rev1\r\n", "the server speaks IMAP, not HTTP: "),
        (b"-ERR unknown command 'POST'\r\n", "the server speaks Redis, not HTTP: "),
        (b"\x4a\x00\x00\x00\x0a8.0.36\x00", "the server speaks MySQL, not HTTP: "),
        (b"\x15\x03\x01\x00\x02\x02\x46", "the server speaks TLS: write its URL with https://"),
    ],
)
@pytest.mark.parametrize("greets", [True, False])
async def test_a_server_that_speaks_something_else(
    serve: Serve, open_channel: OpenChannel, answer: bytes, problem: str, *, greets: bool
) -> None:
    """Before or after our request: nothing was sent that anybody bills."""

    async def script(peer: Peer) -> None:
        if not greets:
            await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say(answer)
        await peer.stay()

    server = await serve(script)
    channel = open_channel(server.url)

    replies = [await channel.send(a_request()) for _ in range(2)]

    assert [reply.cause for reply in replies] == [Cause.NOT_SENT] * 2
    assert all(reply.detail.startswith(problem) for reply in replies)


async def test_something_else_after_a_reply_is_a_broken_reply(serve: Serve, open_channel: OpenChannel) -> None:
    """The server speaks HTTP: it may have worked on the request, so that is not sent again as often as one likes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(a_reply(b"{}", "Connection: close") if peer.number == 1 else b"SSH-2.0-OpenSSH_9.6p1\r\n")

    server = await serve(script)
    channel = open_channel(server.url)

    first, second = [await channel.send(a_request()) for _ in range(2)]

    assert first.status == 200
    assert second.cause is Cause.BROKEN


async def test_a_greeting_before_the_turn_of_the_first_request(serve: Serve, stack: AsyncExitStack) -> None:
    """While a rate lets it wait, the connection is found to be of another kind; it is not opened again and again."""

    async def script(peer: Peer) -> None:
        await peer.say(b"SSH-2.0-OpenSSH_9.6p1\r\n")
        await peer.stay()

    server = await serve(script)
    channel = TRANSPORTS["lean"](make_target(an_endpoint(server.url), None, KEY), 10.0, 5.0)
    stack.push_async_callback(channel.close)
    listener = ChannelListener(leave=lambda attempt, is_fresh: asyncio.ensure_future(_pause()))

    reply = await channel.send(a_request(), listener)

    assert reply.cause is Cause.NOT_SENT
    assert reply.detail.startswith("the server speaks SSH, not HTTP: ")
    assert len(server.peers) == 1


async def _pause() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_http_on_a_port_for_tls(serve: Serve, open_channel: OpenChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that closes at plain HTTP: the port says what it may be."""

    async def read_and_close(peer: Peer) -> None:
        await peer.request()

    server = await serve(read_and_close)
    monkeypatch.setattr("llmblast.sending.foreign_protocols.TLS_PORTS", (server.port,))

    reply = await open_channel(server.url).send(a_request())

    assert reply.cause is Cause.BROKEN
    assert reply.detail.endswith("; if it speaks TLS, write its URL with https://")
