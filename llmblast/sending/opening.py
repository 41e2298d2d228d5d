"""What all ways to open a connection share: the life of an idle one, and the words for one that could not be opened."""

import socket
from errno import ECONNREFUSED

from llmblast.records import Cause, Reply
from llmblast.sending.files import is_out_of_files, shortage

IDLE_S = 60.0
"""Connections that were idle for longer are closed: routers forget silent ones, most of them after minutes."""
_KEEP_ALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000))
"""A peer that is gone without a word, as after a suspend, shows in two minutes (RFC 1122 section 4.2.3.6, RFC 5482)
instead of at the timeout, and a router sees some life while a long answer is being thought out.
"""


def keep_alive(made: socket.socket) -> None:
    """Makes the kernel ask after a silent peer."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # what a platform does not have stays at its default
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def not_sent(host: str | None, port: int | None, error: BaseException) -> Reply:
    """The Reply for a connection that could not be opened, in words for a person."""
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
    """The Reply for a name that nobody knows."""
    return Reply(cause=Cause.NOT_SENT, detail=f"the host name {host} cannot be resolved: is it correct?")


def closed_at_once(host: str | None, port: int | None) -> Reply:
    """The Reply for a connection that is lost before anything was written on it."""
    return Reply(cause=Cause.NOT_SENT, detail=f"{place_of(host, port)} closed the connection at once")


def place_of(host: str | None, port: int | None) -> str:
    """`host:port`, as a URL writes it."""
    return f"[{host}]:{port}" if host and ":" in host else f"{host}:{port}"
