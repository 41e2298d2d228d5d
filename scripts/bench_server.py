"""The server to measure against: one that BENCH_SERVER names, a fast one that stands beside the checkout, or the mock.

A command that serves knows `start` (prints its URL), `stop`, `limit` (prints the requests/s of wrk) and, if it can,
`cert` (prints the certificate for https://localhost:9443). Paths in front of /v1 stand for slower and longer replies.
"""

import http.client
import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from bench_runs import LLMBLAST
from bench_table import FailedRunError, LeftOutError

RIG = Path("../shared/rig/fast_server")
MOCK = "mock"
TLS_URL = "https://localhost:9443/v1"
_TIMEOUT_S = 20.0
_LISTENS = "0A"
_MOCK_OPTIONS = {
    "": ("--latency", "0"),
    "100ms": ("--latency", "0.1", "--jitter", "0"),
    "slow": ("--latency", "1", "--jitter", "0"),
    "8k": ("--latency", "0", "--tokens", "1300"),
    "64k": ("--latency", "0", "--tokens", "10400"),
}


class Server(Protocol):
    """Base URLs of one server. What it does not have raises LeftOutError."""

    name: str

    def url(self, kind: str = "") -> str:
        """Where replies of that kind come from: at once and short, `100ms`, `slow` (1 s), `8k` or `64k`."""
        ...

    def tls(self) -> tuple[str, str]:
        """A URL with https, and the path of the certificate that vouches for it."""
        ...

    @property
    def has_limit(self) -> bool:
        """Whether it can tell what this machine can do at all."""
        ...

    def limit(self) -> float:
        """What wrk gets at this moment, requests/s; 5 s."""
        ...


class CommandServer:
    """A server that a command starts."""

    has_limit = True

    def __init__(self, command: str, base_url: str) -> None:
        self.name = Path(command).name
        self._command = command
        self._base_url = base_url

    def url(self, kind: str = "") -> str:
        """Raises LeftOutError where nothing answers at that path."""
        url = f"{self._base_url.removesuffix('/v1')}/{kind}/v1" if kind else self._base_url
        try:
            reply_bytes(url)
        except FailedRunError as error:
            raise LeftOutError(f"the server has no such path: {error}") from None
        return url

    def tls(self) -> tuple[str, str]:
        """Raises LeftOutError where it has no certificate, or does not answer with it."""
        try:
            certificate = _said(self._command, "cert")
            reply_bytes(TLS_URL, certificate)
        except (FailedRunError, OSError) as error:
            raise LeftOutError(f"the server has no TLS: {error}") from None
        return TLS_URL, certificate

    def limit(self) -> float:
        """What wrk gets, requests/s."""
        return float(_said(self._command, "limit"))


class MockServer:
    """The tool's own mock, a process for each kind of reply. It is slower than the client: its figures say little."""

    name = "llmblast mock"
    has_limit = False

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._urls: dict[str, str] = {}

    def url(self, kind: str = "") -> str:
        """Starts the mock of that kind."""
        if kind not in self._urls:
            command = (*LLMBLAST, "mock", "--port", "0", *_MOCK_OPTIONS[kind])
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self._processes[kind] = process
            assert process.stdout is not None
            self._urls[kind] = process.stdout.readline().split()[-1]
        return self._urls[kind]

    def tls(self) -> tuple[str, str]:
        """It has none."""
        raise LeftOutError("the mock has no TLS")

    def limit(self) -> float:
        """Nobody knows it: what the mock can do is what the mock can do."""
        raise LeftOutError("the mock has no wrk beside it")

    def stop(self) -> None:
        """Ends its processes."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextmanager
def serving() -> Iterator[Server]:
    """The server. One that was running before goes on afterwards."""
    command = os.environ.get("BENCH_SERVER") or (str(RIG) if RIG.exists() else MOCK)
    if command == MOCK:
        mock = MockServer()
        try:
            yield mock
        finally:
            mock.stop()
        return
    before = _listening_ports()
    url = _said(command, "start").removesuffix("/chat/completions")
    try:
        yield CommandServer(command, url)
    finally:
        if urlsplit(url).port not in before:
            subprocess.run([command, "stop"], check=False)


def reply_bytes(url: str, certificate: str | None = None) -> int:
    """The size of one reply's body. Raises FailedRunError unless it is a 200."""
    return len(reply_body(url, certificate=certificate))


def reply_body(url: str, prompt: str = "Hello", certificate: str | None = None) -> bytes:
    """The body of the reply to one prompt. Raises FailedRunError unless it is a 200."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)
    try:
        chat = json.dumps({"model": "mock", "messages": [{"role": "user", "content": prompt}]})
        connection.request("POST", f"{parts.path}/chat/completions", chat, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        body = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        raise FailedRunError(f"{url} answers {reply.status}")
    return body


def _said(command: str, word: str) -> str:
    """The last word that the command prints. Raises FailedRunError where it fails or says nothing."""
    done = subprocess.run([command, word], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    if done.returncode or not words:
        raise FailedRunError(f"{command} {word} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return words[-1]


def _listening_ports() -> set[int]:
    """Over IPv4, proc_net_tcp(5); empty where the system does not tell."""
    ports = set()
    with suppress(FileNotFoundError), open("/proc/net/tcp") as table:
        for line in list(table)[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENS:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports
