"""SOCKS: connections through a proxy that speaks SOCKS4 or SOCKS5 (RFC 1928), by the package of the extra `socks`."""

import os
import socket
from errno import ECONNREFUSED

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy as SocksProxy

from llmblast.sending.proxies import Proxy
from llmblast.sending.proxy_errors import ProxyFailedError

_RESOLVES_NAMES = ("socks4a", "socks5h")
"""Schemes by which the proxy resolves names, as in curl."""


async def connect_through(proxy: Proxy, host: str, port: int, timeout_s: float | None) -> socket.socket:
    """Return a socket that is connected to `host` through the proxy. Raises ProxyFailedError."""
    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    client = SocksProxy(
        proxy_type=kind,
        host=proxy.host,
        port=proxy.port,
        username=proxy.user or None,
        password=proxy.password or None,
        rdns=proxy.scheme in _RESOLVES_NAMES,
    )
    try:
        made: socket.socket = await client.connect(host, port, timeout=timeout_s)
    except (ProxyTimeoutError, TimeoutError):
        raise ProxyFailedError("did not connect within the connect timeout") from None
    except ProxyConnectionError as error:
        raise ProxyFailedError(f"cannot be reached: {_reason_of(error)}: is it running?") from None
    except ProxyError as error:
        raise ProxyFailedError(f"refuses: {error}") from None
    except socket.gaierror:
        raise ProxyFailedError(
            f"was not used: the host name {host} cannot be resolved here: let the proxy resolve it with socks5h://"
        ) from None
    return made


def _reason_of(error: ProxyConnectionError) -> str:
    """Return the system's message: the package's repeats addresses and Python's texts."""
    if isinstance(error.__cause__, socket.gaierror):
        return "its host name cannot be resolved"
    if error.errno == ECONNREFUSED:
        return "connection refused"
    return os.strerror(error.errno) if error.errno else "no connection"
