"""Download: how far the download of a file of lines has come, and how it goes on after a break (RFC 9110 section 14).

A server that names the version of its file can send the rest of it. Others send the whole file again.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

_ANSWERS_TO_RANGES = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


@dataclass(slots=True)
class Download:
    """One download, in several tries. Each calls `headers`, `check` and `count`."""

    whole_bytes: int = 0
    """Bytes up to the end of the last whole line."""
    is_open: bool = False
    """The server has begun to send the file, in the last try."""
    _tag: str = ""
    """A strong ETag or the time of the last change; empty where the server tells neither, or compresses the file."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers of the next try."""
        self.is_open = False
        if not self.whole_bytes:
            return {}
        rest = {"Range": f"bytes={self.whole_bytes}-", "If-Range": self._tag} if self._tag else {}
        return {"Accept-Encoding": "identity", **rest}

    def check(self, response: aiohttp.ClientResponse) -> None:
        """Begin anew where the server sends the whole file. Raise ClientError for a part that was not asked for."""
        status, headers = response.status, response.headers
        self.is_open = status < HTTPStatus.MULTIPLE_CHOICES
        if self.is_open and status != HTTPStatus.PARTIAL_CONTENT:
            etag = "" if headers.get("ETag", "").startswith("W/") else headers.get("ETag", "")
            is_plain = headers.get("Content-Encoding", "identity") == "identity"
            self._tag = (etag or headers.get("Last-Modified", "")) if is_plain else ""
            self.whole_bytes = 0
        elif self._tag and status in _ANSWERS_TO_RANGES and not self._is_rest(headers.get("Content-Range", "")):
            self._tag = ""
            raise aiohttp.ClientPayloadError("the server did not send the rest of the file")

    async def count(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass pieces on. When the next one is asked for, all lines in those before it have been handed out."""
        received = self.whole_bytes
        async for piece in pieces:
            if end := piece.rfind(b"\n") + 1:
                self.whole_bytes = received + end
            received += len(piece)
            yield piece

    def _is_rest(self, content_range: str) -> bool:
        return content_range.startswith(f"bytes {self.whole_bytes}-")
