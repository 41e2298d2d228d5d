"""A server that reads a connection only after the end of the one before it, as servers with few threads do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import RunLlmblast, records, write_prompts

ANSWER = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"ok"}}]}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


def serve_one_by_one(listener: socket.socket) -> None:
    """Answer all requests of a connection until the client closes it, then those of the next one."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as reader:
            while reader.readline():
                length = 0
                while (line := reader.readline().strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                reader.read(length)
                connection.sendall(REPLY)


@pytest.fixture
def url() -> Iterator[str]:
    """The address of such a server."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        thread = threading.Thread(target=serve_one_by_one, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


def test_the_last_requests_do_not_wait_for_idle_connections(tmp_path: Path, url: str, llmblast: RunLlmblast) -> None:
    """Once nothing is left to send, idle connections are closed: the server turns to the others then."""
    write_prompts(tmp_path / "prompts.jsonl", 20)

    done = llmblast("run", "prompts.jsonl", "-u", f"{url},concurrency=2", "-m", "m", "--timeout", "20", "-a", "1")

    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 20
