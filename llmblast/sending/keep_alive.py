"""Keep-alive: how long idle connections are kept, and when the kernel asks whether a silent peer is still there."""

import socket

MAX_IDLE_S = 60.0
"""Connections that were idle for longer are closed: routers forget silent ones, most of them after minutes."""
_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000))
"""A peer that has vanished, as after a suspend, shows in two minutes (RFC 1122 section 4.2.3.6, RFC 5482) instead of at
the timeout, and routers see packets while a long answer is being generated.
"""


def enable_keep_alive(made: socket.socket) -> None:
    """Make the kernel probe a silent peer."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):  # options that a platform lacks stay at their default
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
