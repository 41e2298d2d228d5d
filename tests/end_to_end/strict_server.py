"""A server that forgives nothing: the algorithm of nginx's `limit_req` without `burst`, over real sockets.

Written from nginx's ngx_http_limit_req_module.c: the excess is counted in thousandths of a request and shrinks with the
milliseconds that have passed; a request that would bring it above the burst, here 0, is rejected and changes nothing.

When a request came is when the kernel received it (SO_TIMESTAMPNS): a busy test machine lets this process wait for
milliseconds. Prints its port, and its ledger as JSON when its standard input ends.
"""

import json
import re
import socket
import struct
import sys
import threading
import time

SO_TIMESTAMPNS = 35
"""As on Linux; Python has no name for it."""
ANSWER = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"ok"}}]}'
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class LimitReq:
    """`limit_req_zone ... rate=`, without `burst`."""

    def __init__(self, per_second: float) -> None:
        self._rate = round(per_second * 1000)
        self._excess = 0
        self._last_ms: int | None = None

    def admits(self, now_ms: int) -> bool:
        """Count a request that came in this millisecond, if it is let in."""
        if self._last_ms is None:
            self._last_ms = now_ms
            return True
        passed_ms = max(now_ms - self._last_ms, 0)
        excess = max(self._excess - self._rate * passed_ms // 1000 + 1000, 0)
        if excess > 0:
            return False
        self._excess = excess
        if passed_ms:
            self._last_ms = now_ms
        return True


class StrictServer:
    """One thread for each connection."""

    def __init__(self, per_second: float) -> None:
        self._limit = LimitReq(per_second)
        self._lock = threading.Lock()
        self.ledger: list[tuple[float, int]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # its connections inherit it
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Accept connections for ever."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request, came_s = b"", 0.0
        with connection:
            while True:
                data, ancillary, _, _ = connection.recvmsg(65536, 256)
                if not data:
                    return
                if not request:
                    came_s = _stamp_of(ancillary)
                request += data
                head, separator, body = request.partition(b"\r\n\r\n")
                length = _LENGTH.search(head)
                if separator and length is not None and len(body) >= int(length[1]):
                    connection.sendall(self._answer(came_s))
                    request = b""

    def _answer(self, came_s: float) -> bytes:
        with self._lock:
            status = 200 if self._limit.admits(int(came_s * 1000)) else 429
            self.ledger.append((came_s, status))
        body = ANSWER if status == 200 else b"{}"
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def _stamp_of(ancillary: list[tuple[int, int, bytes]]) -> float:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("ll", data)
            return float(seconds + nanoseconds / 1e9)
    return time.time()


def main() -> None:
    """Serve until standard input ends."""
    server = StrictServer(float(sys.argv[1]))
    threading.Thread(target=server.serve, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.read()
    print(json.dumps(server.ledger), flush=True)


if __name__ == "__main__":
    main()
