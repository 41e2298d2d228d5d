"""Growing input: read the records that a run in this process is still writing, as far as they are there.

The file is the buffer between the two: a slow reader holds nothing up, and memory does not grow. Only whole lines are
passed on. What may be left behind the last line end is half a record, whose line the next run sends again.
"""

import asyncio
from contextlib import suppress

import aiofiles

from llmblast.errors import InputMissingError
from llmblast.reading.following import POLL_INTERVAL_S
from llmblast.reading.source import BLOCK_BYTES, Source


async def open_growing(path: str, has_ended: asyncio.Event) -> Source:
    """Open a file of records that grows until `has_ended` is set. Raises InputMissingError."""
    try:
        file = await aiofiles.open(path, "rb", buffering=0)
    except OSError as error:
        raise InputMissingError(f"{path}: cannot be opened: {error.strerror}: name a file that you may read") from None
    rest: list[bytes] = []

    async def read() -> bytes:
        while True:
            is_last = has_ended.is_set()  # before the read: what was written before the end is not missed
            block = await file.read(BLOCK_BYTES)
            end = block.rfind(b"\n") + 1
            if end:
                lines = b"".join((*rest, block[:end]))
                rest[:] = [block[end:]]
                return lines
            if block:
                rest.append(block)
            elif is_last:
                return b""
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_INTERVAL_S):
                        await has_ended.wait()

    source = Source(path, None, read, file.close)
    source.is_stream = source.is_live = True
    return source
