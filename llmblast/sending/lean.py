"""The lean transport: exchanges on kept connections, the last one used goes first, so that surplus ones can age out."""

from collections.abc import Callable

from yarl import URL

from llmblast.records import Cause, Reply, Request
from llmblast.sending.connections import Connector
from llmblast.sending.exchange import MAX_REPLY_BYTES, Exchange
from llmblast.sending.openai import Target


class LeanChannel:
    """One endpoint's connections. `timeout_s` covers a send from its admission to the last byte of its reply."""

    def __init__(
        self, target: Target, timeout_s: float, connect_timeout_s: float, max_reply_bytes: int = MAX_REPLY_BYTES
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._connector = Connector(target.base, min(connect_timeout_s, timeout_s), max_reply_bytes)
        self._idle: list[Exchange] = []
        self._open: set[Exchange] = set()
        self._heads: dict[str, bytes] = {}
        self.on_late: Callable[[Request], None] = lambda request: None

    async def warm_up(self) -> Reply | None:
        """Opens a connection ahead: else the first request leaves a handshake later than the limits think, and comes
        too close to those that follow on kept connections.
        """
        opened = await self._connector.open(self._forget)
        if isinstance(opened, Reply):
            return opened
        self._open.add(opened)
        self._idle.append(opened)
        return None

    async def send(self, request: Request) -> Reply:
        """One exchange, on a kept connection where there is one."""
        exchange = None if request.resent else self._take_idle()
        if exchange is None:
            opened = await self._connector.open(self._forget)
            if isinstance(opened, Reply):
                return opened
            self._open.add(opened)
            exchange = opened
            self.on_late(request)
        body = self._target.body_of(request)
        head = b"%b%d\r\n\r\n" % (self._head(request.path), len(body))
        try:
            reply = await exchange.send(head, body, request.sent_s + self._timeout_s)
        except BaseException:
            exchange.cut_off(Cause.BROKEN, "cancelled")
            raise
        if exchange.is_reusable:
            self._idle.append(exchange)
        return reply

    def sweep(self, now: float) -> None:
        """One look at every connection, instead of a timer for every request."""
        for exchange in [exchange for exchange in self._open if exchange.deadline_s <= now]:
            exchange.cut_off(Cause.TIMED_OUT, f"no complete reply within {self._timeout_s:g} s")

    async def close(self) -> None:
        """Closes all connections."""
        for exchange in list(self._open):
            exchange.close()
        await self._connector.close()

    def _take_idle(self) -> Exchange | None:
        while self._idle:
            exchange = self._idle.pop()
            if exchange.is_reusable:
                return exchange
        return None

    def _forget(self, exchange: Exchange) -> None:
        self._open.discard(exchange)

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = _render_head(self._target, path)
        return head


def _render_head(target: Target, path: str) -> bytes:
    """Request line and headers up to the figure of Content-Length (RFC 9112 section 3)."""
    url = URL(target.url_of(path))
    lines = [f"POST {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    return "\r\n".join([*lines, "Content-Length: "]).encode("latin-1")
