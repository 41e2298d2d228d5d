"""Connect errors: the replies for connections that could not be opened, in words for a person."""

import socket
from errno import ECONNREFUSED

from llmblast.models import Cause, Reply
from llmblast.sending.fd_waiters import is_out_of_files, shortage


def not_sent(host: str | None, port: int | None, error: BaseException) -> Reply:
    """Return the Reply for a connection that could not be opened."""
    place = place_of(host, port)
    if is_out_of_files(error):
        return Reply(cause=Cause.NOT_SENT, detail=shortage())
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return unresolved(host)
    if isinstance(error, OSError) and error.errno == ECONNREFUSED:
        detail = f"{place}: connection refused: is the server running?"
    elif isinstance(error, TimeoutError) and error.errno is None:  # the kernel's own has a number
        detail = f"{place}: no connection within the connect timeout"
    else:
        detail = f"{place}: no connection: {getattr(error, 'strerror', None) or error}"
    return Reply(cause=Cause.NOT_SENT, detail=detail)


def unresolved(host: str | None) -> Reply:
    """Return the Reply for a host name that has no address."""
    return Reply(cause=Cause.NOT_SENT, detail=f"the host name {host} cannot be resolved: is it correct?")


def closed_at_once(host: str | None, port: int | None) -> Reply:
    """Return the Reply for a connection that is lost before anything was written on it."""
    return Reply(cause=Cause.NOT_SENT, detail=f"{place_of(host, port)} closed the connection at once")


def place_of(host: str | None, port: int | None) -> str:
    """Return `host:port` as a URL writes it."""
    return f"[{host}]:{port}" if host and ":" in host else f"{host}:{port}"
