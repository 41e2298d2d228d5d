"""Sources: compressed inputs, several of them, patterns, and files that grow."""

import asyncio
import bz2
import gzip
import lzma
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llmblast.errors import InputDamagedError, InputMissingError, UsageError
from llmblast.input_paths import expand_inputs, matches, recorded_input, shown_input
from llmblast.reading import Source, open_source, open_sources

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT_S = 30
TEXT = b"".join(b'{"id":%d,"input":"question number %d"}\n' % (number, number * 7919) for number in range(30_000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}
EACH_CODEC = pytest.mark.parametrize("codec", COMPRESS)


async def read(source: Source, blocks: list[bytes] | None = None) -> bytes:
    blocks = [] if blocks is None else blocks
    try:
        async for block in source.blocks():
            blocks.append(block)
        return b"".join(blocks)
    finally:
        await source.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not is_so():  # noqa: ASYNC110 -- what is waited for is another's state
            await asyncio.sleep(0.005)


@EACH_CODEC
async def test_a_compressed_file_is_read_whatever_its_name(tmp_path: Path, codec: str) -> None:
    """Its size, and what was read of it, are those of the file."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(COMPRESS[codec](TEXT))

    source = await open_source(str(path))

    assert await read(source) == TEXT
    assert source.size_bytes == source.bytes_used == path.stat().st_size
    assert source.bytes_out == len(TEXT)


@EACH_CODEC
async def test_a_compressed_pipe_may_begin_slowly(tmp_path: Path, codec: str) -> None:
    """Byte by byte, even."""
    os.mkfifo(tmp_path / "fifo")
    source = await open_source(str(tmp_path / "fifo"))
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)

    async def write() -> None:
        for value in COMPRESS[codec](TEXT[:1000]):
            os.write(writer, bytes([value]))
            await asyncio.sleep(0)
        os.close(writer)

    writing = asyncio.create_task(write())

    assert await read(source) == TEXT[:1000]
    await writing


async def test_a_slow_producer_behind_gzip_is_read_as_it_writes(tmp_path: Path) -> None:
    """A line that is flushed is there before the next one is written."""
    import zlib

    os.mkfifo(tmp_path / "fifo")
    source = await open_source(str(tmp_path / "fifo"))
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    packer = zlib.compressobj(wbits=31)
    blocks = source.blocks()

    for line in (b"one\n", b"two\n"):
        os.write(writer, packer.compress(line) + packer.flush(zlib.Z_SYNC_FLUSH))
        assert await asyncio.wait_for(anext(blocks), LIMIT_S) == line

    os.write(writer, packer.flush())
    os.close(writer)
    assert [block async for block in blocks] == []
    await source.close()


@EACH_CODEC
async def test_damage_names_the_place_and_what_was_read(tmp_path: Path, codec: str) -> None:
    """All that came before it is delivered."""
    data = COMPRESS[codec](TEXT)
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(data[: len(data) - 10])
    blocks: list[bytes] = []

    with pytest.raises(InputDamagedError) as raised:
        await read(await open_source(str(path)), blocks)

    received = b"".join(blocks)
    assert TEXT.startswith(received)
    assert codec == "bzip2" or len(received) > 100_000
    assert str(raised.value) == (
        f"{path}: its {codec} data is cut off, at about byte {len(data) - 10}, after {len(received)} decompressed "
        "bytes: repair the input and run the same command again to go on"
    )


async def test_what_comes_just_before_the_damage_is_read(tmp_path: Path) -> None:
    """Even where both are in one block."""
    (tmp_path / "a").write_bytes(gzip.compress(b"one\n") + b"\x1f\x8b\xff" + bytes(range(100)))
    blocks: list[bytes] = []

    with pytest.raises(InputDamagedError, match="its gzip data is damaged, at about byte 127, after 4 decompressed"):
        await read(await open_source(str(tmp_path / "a")), blocks)

    assert blocks == [b"one\n"]


async def test_garbage_behind_gzip_is_told_and_ignored(tmp_path: Path) -> None:
    """As zcat does."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(gzip.compress(TEXT) + b"garbage")
    source = await open_source(str(path))

    assert await read(source) == TEXT
    assert source.notes == [f"{path}: something else follows its gzip data: it is ignored"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (gzip.compress("\ufeffx".encode("utf-16-le")), "convert it: zcat FILE | iconv -f UTF-16 -t UTF-8 | llmblast"),
        (bz2.compress(b"PK\3\4..."), "is zip-compressed: decompress it: bzcat FILE | funzip | llmblast run -"),
        (gzip.compress(lzma.compress(b"{}")), "is compressed twice: decompress it once: zcat FILE | llmblast run -"),
    ],
    ids=["utf-16", "zip", "xz"],
)
async def test_what_is_inside_is_looked_at_too(tmp_path: Path, data: bytes, sentence: str) -> None:
    """The command names both steps."""
    (tmp_path / "prompts.jsonl").write_bytes(data)

    with pytest.raises(InputDamagedError, match=re.escape(sentence)):
        await read(await open_source(str(tmp_path / "prompts.jsonl")))


async def test_a_source_may_be_left_while_it_reads_ahead(tmp_path: Path) -> None:
    """The damage further on is nobody's business then."""
    (tmp_path / "a").write_bytes(gzip.compress(TEXT)[:-9])
    source = await open_source(str(tmp_path / "a"))

    async for _ in source.blocks():
        break
    await asyncio.sleep(0)

    await source.close()


@pytest.mark.parametrize("count", [300, 30_000])
async def test_the_expected_size_of_a_compressed_file_is_near(tmp_path: Path, count: int) -> None:
    """From the first block on, so that the number of lines can be guessed; exact at the end."""
    text = b"".join(TEXT.splitlines(keepends=True)[:count])
    (tmp_path / "a").write_bytes(gzip.compress(text))
    sources = await open_sources([str(tmp_path / "a")])
    expected: list[int | None] = []

    async for source in sources.each():
        async for _ in source.blocks():
            expected.append(sources.expected_bytes)

    assert expected[-1] == sources.expected_bytes == len(text)
    assert all(size is not None and 0.5 < size / len(text) < 2 for size in expected)


async def test_several_inputs_are_read_in_their_order(tmp_path: Path) -> None:
    """Each with its name; a name may be given twice."""
    (tmp_path / "b.jsonl").write_bytes(b"b\n")
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"a\n"))
    paths = [str(tmp_path / name) for name in ("b.jsonl", "a.jsonl", "b.jsonl")]
    sources = await open_sources(paths)

    read_from = [(sources.file, await read(source)) async for source in sources.each()]

    assert read_from == [(paths[0], b"b\n"), (paths[1], b"a\n"), (paths[2], b"b\n")]
    assert sources.size_bytes == 4 + (tmp_path / "a.jsonl").stat().st_size


async def test_one_input_has_no_name_in_records(tmp_path: Path) -> None:
    """However it was given."""
    (tmp_path / "a.jsonl").touch()

    sources = await open_sources([str(tmp_path / "*.jsonl")])
    await sources.close()

    assert sources.file is None


@pytest.mark.parametrize("name", ["missing.jsonl", "*.csv", "."])
async def test_an_input_that_is_missing_is_told_before_any_is_read(tmp_path: Path, name: str) -> None:
    """Wherever it stands among the others."""
    (tmp_path / "a.jsonl").touch()

    with pytest.raises(InputMissingError, match=re.escape(f"{tmp_path / name}: ")):
        await open_sources([str(tmp_path / "a.jsonl"), str(tmp_path / name)])


async def test_an_input_that_goes_missing_meanwhile_damages_the_whole(tmp_path: Path) -> None:
    """The same command goes on once it is back."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.touch()
    sources = await open_sources([*map(str, paths)])
    paths[1].unlink()

    with pytest.raises(InputDamagedError, match="b: no such file since the run began: restore it"):
        [await read(source) async for source in sources.each()]


def test_patterns_are_sorted_and_names_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be called like a pattern. Directories are no inputs of a pattern."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/b.jsonl", "data/a.jsonl", "data/deep/c.jsonl", "a[1].jsonl", "a1.jsonl"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()

    assert expand_inputs(["data/*"]) == ["data/a.jsonl", "data/b.jsonl"]
    assert expand_inputs(["a[1].jsonl", "a?.jsonl", "-"]) == ["a[1].jsonl", "a1.jsonl", "-"]
    assert expand_inputs(["data/**/*.jsonl"]) == ["data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl"]
    assert expand_inputs(["https://host/a*?b=[c]"]) == ["https://host/a*?b=[c]"]
    assert matches("data/*.jsonl", "./data/new.jsonl")
    assert not matches("data/*.jsonl", "data/deep/new.jsonl")
    assert not matches("a[1].jsonl", "a1.jsonl")


@pytest.mark.parametrize(
    ("given", "follow", "message"),
    [
        (["-", "-"], False, "standard input is named twice"),
        (["a", "-"], True, "--follow: standard input cannot be followed: name a file as the last input"),
        (["https://u:p@host/a?key=x"], True, "--follow: https://host/a cannot be followed"),
    ],
)
def test_inputs_that_do_not_fit_together(given: list[str], follow: bool, message: str) -> None:
    """In one sentence."""
    with pytest.raises(UsageError, match=re.escape(message)):
        expand_inputs(given, follow=follow)


def test_names_of_urls_hold_no_secret() -> None:
    """Neither in messages nor in records."""
    url = "https://user:secret@host:8/a%20b.jsonl?X-Amz-Signature=secret#secret"

    assert shown_input(url) == recorded_input(url) == "https://host:8/a%20b.jsonl"
    assert (shown_input("-"), recorded_input("-")) == ("standard input", "-")


async def lines_of(path: Path, *others: Path) -> AsyncIterator[tuple[str, list[str]]]:
    """What `--follow` delivers, block by block, with the messages."""
    sources = await open_sources([*map(str, others), str(path)], follow=True)
    try:
        async for source in sources.each():
            async for block in source.blocks():
                yield block.decode(), sources.take_notes()
    finally:
        await sources.close()


async def next_of(blocks: AsyncIterator[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    return await asyncio.wait_for(anext(blocks), LIMIT_S)


async def test_a_file_that_grows_is_followed(tmp_path: Path) -> None:
    """Through truncation and rotation, and a time without a file of that name."""
    path = tmp_path / "a"
    path.write_text("one\n")
    blocks = lines_of(path)
    note = f"{path}: was truncated or replaced: reading it from its start"
    assert await next_of(blocks) == ("one\n", [])

    waiting = asyncio.ensure_future(next_of(blocks))
    with path.open("a") as file:
        file.write("two\n")
    assert await waiting == ("two\n", [])

    path.write_text("3\n")
    assert await next_of(blocks) == ("3\n", [note])

    with path.open("a") as file:
        path.rename(tmp_path / "a.1")
        file.write("late\n")
    assert await next_of(blocks) == ("late\n", [])
    waiting = asyncio.ensure_future(next_of(blocks))
    await asyncio.sleep(0)
    path.write_text("four\n")
    assert await waiting == ("four\n", [note])
    await blocks.aclose()  # type: ignore[attr-defined] # a generator


async def test_only_the_last_of_several_files_is_followed(tmp_path: Path) -> None:
    """The others have an end."""
    (tmp_path / "a").write_text("a\n")
    (tmp_path / "b").write_text("b\n")
    blocks = lines_of(tmp_path / "b", tmp_path / "a")

    assert [(await next_of(blocks))[0], (await next_of(blocks))[0]] == ["a\n", "b\n"]
    with (tmp_path / "b").open("a") as file:
        file.write("more\n")
    assert (await next_of(blocks))[0] == "more\n"
    await blocks.aclose()  # type: ignore[attr-defined] # a generator


async def test_a_fifo_that_is_followed_survives_its_writers(tmp_path: Path) -> None:
    """One after another."""
    os.mkfifo(tmp_path / "fifo")
    blocks = lines_of(tmp_path / "fifo")
    waiting = asyncio.ensure_future(next_of(blocks))
    await asyncio.sleep(0.01)

    for text in ("one\n", "two\n"):
        with (tmp_path / "fifo").open("w") as file:
            file.write(text)
        assert await waiting == (text, [])
        waiting = asyncio.ensure_future(next_of(blocks))
        await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_device_cannot_be_followed() -> None:
    """It would be read again and again."""
    with pytest.raises(InputMissingError, match="/dev/null: cannot be followed"):
        await open_sources(["/dev/null"], follow=True)
