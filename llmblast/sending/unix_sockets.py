"""Unix sockets: connections to a server of this machine that listens at a file instead of a port.

As with curl's `--unix-socket`, the URL gives path and `Host` only, and no proxy is used.
"""

import asyncio
from errno import ECONNREFUSED, ENOENT, ENOTSOCK

from llmblast.models import Cause, Reply
from llmblast.sending.exchange import Exchange, ExchangeOwner
from llmblast.sending.fd_waiters import is_out_of_files, shortage

_REASONS = {
    ECONNREFUSED: "connection refused: is the server running?",
    ENOENT: "there is no such socket: is the server running?",
    ENOTSOCK: "is not a socket: name the file at which the server listens",
}


class UnixSocketConnector:
    """Opens connections for lean exchanges to one endpoint."""

    def __init__(self, path: str, connect_timeout_s: float, max_reply_bytes: int) -> None:
        self._path = path
        self._connect_timeout_s = connect_timeout_s
        self._max_reply_bytes = max_reply_bytes

    async def open(self, owner: ExchangeOwner) -> Exchange | Reply | None:
        """See `Connector`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, _ = await loop.create_unix_connection(asyncio.Protocol, self._path)
        except OSError as error:  # TimeoutError is one
            return None if is_out_of_files(error) else not_sent(self._path, error)
        if transport.is_closing():
            return Reply(cause=Cause.NOT_SENT, detail=f"{self._path} closed the connection at once")
        return Exchange(transport, owner, self._max_reply_bytes)

    async def close(self) -> None:
        """Do nothing: an exchange closes its own connection."""


def not_sent(path: str, error: BaseException) -> Reply:
    """Return the Reply for a connection that could not be opened, in words for a person."""
    if is_out_of_files(error):
        return Reply(cause=Cause.NOT_SENT, detail=shortage())
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, TimeoutError) and number is None:
        reason = "no connection within the connect timeout"
    else:
        reason = _REASONS.get(number or 0) or f"no connection: {getattr(error, 'strerror', None) or error}"
    return Reply(cause=Cause.NOT_SENT, detail=f"{path}: {reason}")
