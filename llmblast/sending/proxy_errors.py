"""Proxy errors: distinguish a proxy's failure, after which no request has left, from the endpoint's."""

import socket
from errno import ECONNREFUSED

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientProxyConnectionError,
    ClientResponseError,
    ServerDisconnectedError,
)
from aiohttp.client_exceptions import ClientConnectorCertificateError, ClientConnectorDNSError, ClientSSLError
from yarl import URL

from llmblast.sending.connect_errors import place_of
from llmblast.sending.proxies import Proxy
from llmblast.sending.proxy_replies import explain_proxy_status
from llmblast.sending.tls_errors import explain_certificate, explain_tls


class ProxyFailedError(ClientError):
    """The proxy opened no connection; the text continues the sentence after its name."""


_FAILURES: tuple[tuple[type[BaseException], str], ...] = (
    (ProxyFailedError, "{error}"),
    (ClientResponseError, "does not answer with HTTP: check its host and port"),
    (TimeoutError, "did not connect to {target} within the connect timeout"),
    (ServerDisconnectedError, "closed the connection instead of connecting to {target}"),
    (OSError, "broke the connection instead of connecting to {target}"),
)


def explain_proxy(proxy: Proxy, url: URL, error: BaseException) -> str:
    """Explain a proxy's failure to a person; return an empty text for a failure of the endpoint."""
    target = place_of(url.host, url.port)
    if isinstance(error, ClientHttpProxyError):
        return explain_proxy_status(proxy, error.status, target)
    if isinstance(error, ClientConnectorError):
        is_of_proxy = _is_of_proxy(error, proxy, url)
        return f"the proxy {proxy} cannot be reached: {_explain_connection(error)}" if is_of_proxy else ""
    for kind, words in _FAILURES:
        if isinstance(error, kind):
            return f"the proxy {proxy} {words.format(error=error, target=target)}"
    return ""


def _is_of_proxy(error: ClientConnectorError, proxy: Proxy, url: URL) -> bool:
    if isinstance(error, ClientProxyConnectionError):
        return True
    names_proxy = (error.host, error.port) == (proxy.host, proxy.port)
    return names_proxy and (url.host, url.port) != (proxy.host, proxy.port)


def _explain_connection(error: ClientConnectorError) -> str:
    cause = error.os_error
    if isinstance(error, ClientConnectorCertificateError):
        return f"its TLS certificate cannot be verified: {explain_certificate(error.certificate_error, error.host)}"
    if isinstance(error, ClientSSLError):
        return f"no TLS connection: {explain_tls(cause)}"
    if isinstance(error, ClientConnectorDNSError) or isinstance(cause, socket.gaierror):
        return "its host name cannot be resolved"
    if cause.errno == ECONNREFUSED:
        return "connection refused: is it running?"
    return cause.strerror or "no connection"
