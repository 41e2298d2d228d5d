"""A file of records that grows while it is read."""

import asyncio
from pathlib import Path

import pytest

from llmblast.errors import InputMissingError
from llmblast.reading.growing import open_growing
from llmblast.reading.source import BLOCK_BYTES


async def test_what_is_appended_is_read_until_the_end(tmp_path: Path) -> None:
    """Whole lines only, and all that was written before the end."""
    path, has_ended = tmp_path / "save.jsonl", asyncio.Event()
    path.write_bytes(b"one\ntw")
    source = await open_growing(str(path), has_ended)
    blocks = source.blocks()

    first = await anext(blocks)
    waiting = asyncio.ensure_future(anext(blocks))
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    has_ended.set()
    second = await waiting
    rest = [block async for block in blocks]
    await source.close()

    assert (first, second, rest) == (b"one\n", b"two\nthree\n", [])
    assert source.is_stream


async def test_half_a_record_at_the_end_is_left_out(tmp_path: Path) -> None:
    """The next run repairs the file, and sends its line again."""
    path, has_ended = tmp_path / "save.jsonl", asyncio.Event()
    path.write_bytes(b'{"key":1}\n{"ke')
    has_ended.set()
    source = await open_growing(str(path), has_ended)

    blocks = [block async for block in source.blocks()]
    await source.close()

    assert blocks == [b'{"key":1}\n']


async def test_a_record_may_be_longer_than_a_block(tmp_path: Path) -> None:
    """It is put together from its parts."""
    path, has_ended = tmp_path / "save.jsonl", asyncio.Event()
    content = b"x" * (2 * BLOCK_BYTES + 5) + b"\n" + b"y\n"
    path.write_bytes(content)
    has_ended.set()
    source = await open_growing(str(path), has_ended)

    blocks = [block async for block in source.blocks()]
    await source.close()

    assert b"".join(blocks) == content


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As any other input."""
    with pytest.raises(InputMissingError, match=r"gone\.jsonl: cannot be opened: No such file"):
        await open_growing(str(tmp_path / "gone.jsonl"), asyncio.Event())
