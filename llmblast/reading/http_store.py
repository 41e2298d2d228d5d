"""HTTP: read a file from a web server with aiohttp, from any offset on (RFC 9110 section 14, range requests).

A server without range requests sends the whole file again: its start is skipped, if the file is still the same.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import aiohttp

from llmblast.reading.stores import BrokenError, Part, RemovedError

CHUNK_BYTES = 256 * 1024
_CONNECT_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 60.0
"""Without a byte for so long, the connection counts as broken."""
_PASSING = (408, 425, 429)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "llmblast"}
_FIXES = {
    401: "it needs a user and a password, or others than these: write them and @ before the host, or use .netrc",
    403: "it is not allowed: the link may have expired",
    404: "correct the URL; an endpoint is named with --url",
    405: "this URL names an API, not a file; an endpoint is named with --url",
}
_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (socket.gaierror, "the host name cannot be resolved"),
    (aiohttp.ClientPayloadError, "the connection broke"),
    (aiohttp.ServerDisconnectedError, "the server closed the connection"),
    (aiohttp.ClientResponseError, "the server does not speak HTTP"),
)
_CA_FIX = "name its CA in SSL_CERT_FILE if you trust it"


class HttpStore:
    """A file at an http or https URL. Proxies, `.netrc` and certificates are those of the environment."""

    def __init__(self, url: str) -> None:
        self._url = url
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
        self._session = aiohttp.ClientSession(auto_decompress=False, trust_env=True, timeout=timeout, headers=_HEADERS)

    async def open_at(self, offset: int, tag: str | None) -> Part:
        """Request the file from an offset on. Raises BrokenError or RemovedError."""
        headers = {"Range": f"bytes={offset}-", **({"If-Range": tag} if tag else {})} if offset else {}
        try:
            response = await self._session.get(self._url, headers=headers)
        except aiohttp.ClientConnectorCertificateError as error:
            raise RemovedError(f"its certificate cannot be verified: {_cause_of(error)}: {_CA_FIX}") from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise RemovedError(f"no TLS connection: {_cause_of(error)}: is it a server of http://?") from None
        except aiohttp.TooManyRedirects:
            raise RemovedError("it redirects too often: write the URL that it should end at") from None
        except (aiohttp.InvalidURL, ValueError):
            raise RemovedError("it is not a URL of a file: write https://HOST/PATH") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BrokenError(_cause_of(error)) from None
        try:
            return self._part_of(response, offset, tag)
        except BaseException:
            response.close()
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _part_of(self, response: aiohttp.ClientResponse, offset: int, tag: str | None) -> Part:
        status = response.status
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            raise RemovedError("it has changed since it was opened")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
            raise BrokenError(f"HTTP {status} {response.reason or ''}".rstrip())
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            fix = _FIXES.get(status, "correct the URL")
            raise RemovedError(f"HTTP {status} {response.reason or ''}".rstrip() + f": {fix}")
        mine = response.headers.get("ETag", "")
        mine = (mine if not mine.startswith("W/") else "") or response.headers.get("Last-Modified", "")
        if tag is not None and mine != tag:
            raise RemovedError("it has changed since it was opened")
        is_rest = status == HTTPStatus.PARTIAL_CONTENT
        if is_rest and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise RemovedError("the server sent another part than was asked for")
        skipped = 0 if is_rest else offset
        size = None if is_rest or response.content_length is None else response.content_length
        return Part(size, mine or None, _chunks(response, skipped), _closer(response))


def _closer(response: aiohttp.ClientResponse) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        response.close()

    return close


async def _chunks(response: aiohttp.ClientResponse, skipped_bytes: int) -> AsyncIterator[bytes]:
    """Yield what arrives, without the first `skipped_bytes`. Raises BrokenError."""
    try:
        while chunk := await response.content.read(CHUNK_BYTES):
            kept = chunk[skipped_bytes:]
            skipped_bytes = max(0, skipped_bytes - len(chunk))
            if kept:
                yield kept
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
        raise BrokenError(_cause_of(error)) from None


def _cause_of(error: BaseException) -> str:
    """Return what went wrong, without the URL, which the messages of aiohttp may repeat."""
    if isinstance(error, TimeoutError):
        return "no reply in time"
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    for kind, words in _CAUSES:
        if isinstance(cause, kind):
            return words
    words = getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or ""
    return str(words or getattr(cause, "strerror", None) or "the connection broke").replace("_", " ").lower()
