"""Remote inputs: read a URL as a stream, and go on where it stopped when the connection breaks.

A store opens the object from an offset on. So much is common to all: how often to try again, and that what goes on must
be the same object as before, which its entity tag tells (RFC 9110 section 8.8.3).
"""

import asyncio

from llmblast.errors import InputMissingError
from llmblast.input_paths import scheme_of, shown_input
from llmblast.reading.source import Source
from llmblast.reading.stores import BrokenError, Part, Store

MAX_TRIES = 6
"""In a row without a byte."""
FIRST_DELAY_S = 0.5
_HTTP = ("http", "https")
_OBJECT_STORES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")


async def open_remote(url: str) -> Source:
    """Open a URL. Raises InputMissingError with the URL, but without what may be a key in it."""
    name = shown_input(url)
    store = _store_of(url, name)
    reader = _ResumingReader(store)
    try:
        size_bytes = await reader.open()
    except OSError as error:
        await reader.close()
        raise InputMissingError(f"{name}: cannot be read: {error}") from None
    except BaseException:
        await reader.close()
        raise
    return Source(name, size_bytes, reader.read, reader.close)


def _store_of(url: str, name: str) -> Store:
    scheme = scheme_of(url)
    if scheme in _HTTP:
        from llmblast.reading.http_store import HttpStore  # noqa: PLC0415 -- aiohttp takes 60 ms

        return HttpStore(url)
    if scheme in _OBJECT_STORES:
        try:
            from llmblast.reading.object_store import ObjectStore  # noqa: PLC0415 -- an extra
        except ModuleNotFoundError:
            raise InputMissingError(f"{name}: object stores need an extra: pip install 'llmblast[remote]'") from None
        return ObjectStore(url)
    raise InputMissingError(f"{name}: unknown kind of URL {scheme}: write http://, https://, s3://, gs:// or az://")


class _ResumingReader:
    """Read an object from its start to its end through as many connections as that takes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._part: Part | None = None
        self._offset = 0
        self._tag: str | None = None
        self._tries = 0

    async def open(self) -> int | None:
        """Open the object, and return its size."""
        while True:
            try:
                self._part = await self._store.open_at(0, None)
            except BrokenError as error:
                await self._wait_after(error)
                continue
            self._tag = self._part.tag
            return self._part.size_bytes

    async def read(self) -> bytes:
        """Return the next bytes; none at the end. Raises OSError once other tries are useless."""
        while True:
            try:
                if self._part is None:
                    self._part = await self._store.open_at(self._offset, self._tag)
                chunk = await anext(self._part.chunks, b"")
            except BrokenError as error:
                await self._close_part()
                await self._wait_after(error)
                continue
            self._offset += len(chunk)
            self._tries = 0
            return chunk

    async def close(self) -> None:
        """Close all connections; a second call does nothing."""
        await self._close_part()
        await self._store.close()

    async def _close_part(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            await part.close()

    async def _wait_after(self, error: BrokenError) -> None:
        self._tries += 1
        if self._tries >= MAX_TRIES:
            raise error
        await asyncio.sleep(FIRST_DELAY_S * 2 ** (self._tries - 1))
