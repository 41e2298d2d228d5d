"""A server that answers each path in its way, and keeps what it received."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Received(NamedTuple):
    """One request; the names of its headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class PathServer(ThreadingHTTPServer):
    """Answers with the reply of the path, which may stand behind others in the path."""

    def __init__(self, replies: Mapping[str, object]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = replies
        self.received: list[Received] = []
        self.host = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PathServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.path, headers, body))
        found = next(reply for path, reply in self.server.replies.items() if self.path.endswith(path))
        reply = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""


@contextmanager
def serving(replies: Mapping[str, object]) -> Iterator[PathServer]:
    """Run a server in a thread."""
    with PathServer(replies) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
