"""Source: one open input, read as blocks of bytes; what is compressed is decompressed, by its content.

Sources of the magic bytes: PKWARE's APPNOTE section 4.3.7 (zip), the Unicode Standard section 23.8 (byte order marks);
those of compressed inputs are in `compression`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from llmblast.errors import InputDamagedError
from llmblast.reading.compression import START_BYTES, codec_of, is_undecided

if TYPE_CHECKING:
    from llmblast.reading.unpacking import Unpacker

BLOCK_BYTES = 256 * 1024

_CONVERT = ", not UTF-8: convert it: "
_FOREIGN = {
    b"PK\3\4": "zip-compressed: decompress it: unzip -p FILE",
    b"\x04\x22\x4d\x18": "lz4-compressed: decompress it: lz4cat FILE",
    b"\xff\xfe\0\0": f"UTF-32{_CONVERT}iconv -f UTF-32 -t UTF-8 FILE",
    b"\0\0\xfe\xff": f"UTF-32{_CONVERT}iconv -f UTF-32 -t UTF-8 FILE",
    b"\xff\xfe": f"UTF-16{_CONVERT}iconv -f UTF-16 -t UTF-8 FILE",
    b"\xfe\xff": f"UTF-16{_CONVERT}iconv -f UTF-16 -t UTF-8 FILE",
}
"""By the first bytes of an input: its type, and a command that converts it. Longer signatures come first."""


class Source:
    """An open input. `size_bytes` is its size as it is stored, compressed or not; None where that is not known.

    `read` returns the next bytes as they are stored, none at the end. It raises OSError, whose text messages repeat.
    """

    def __init__(
        self,
        name: str,
        size_bytes: int | None,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.bytes_read = 0
        """Bytes as they are stored."""
        self.bytes_used = 0
        """How many of these the blocks so far came from."""
        self.bytes_out = 0
        """Bytes of the blocks so far."""
        self.path: str | None = None
        """Its path if it is a regular file, which may be opened again."""
        self.is_stream = False
        """It is written while it is read, by another run perhaps: its lines are not the same each time."""
        self.is_followed = False
        """It is read on as it grows, and has no end."""
        self.is_live = False
        """Its lines come while the run goes on: their deadlines count from then."""
        self.notes: list[str] = []
        """Messages for a person; whoever shows them removes them."""
        self._read = read
        self._close = close
        self._unpacker: Unpacker | None = None

    @property
    def has_grown(self) -> bool:
        """Return whether another process appends to the input: more was read than its size when it was opened."""
        return self.size_bytes is not None and self.bytes_read > self.size_bytes

    @property
    def is_compressed(self) -> bool:
        """Return whether its blocks are decompressed ones; known with the first block."""
        return self._unpacker is not None

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield blocks of some 100 KiB, decompressed, up to the end; from a pipe also smaller ones, as they come.

        Raises InputDamagedError when reading fails, when the file has shrunk since it was opened, when compressed data
        are damaged, and when the input is not UTF-8, since each of its lines would be a bad line.
        """
        start = await self._read_start()
        codec = codec_of(start)
        if codec is not None:
            from llmblast.reading.unpacking import Unpacker  # noqa: PLC0415 -- most inputs are plain

            self._unpacker = Unpacker(codec, self.name, start, self._read_stored)
        block = start if codec is None else await self._next()
        start = b""
        while block:
            if len(start) < START_BYTES:  # a pipe may deliver byte by byte
                start += block[:START_BYTES]
                self._check_start(start)
            self.bytes_out += len(block)
            self.bytes_used = self.bytes_read if self._unpacker is None else self._unpacker.bytes_used
            yield block
            block = await self._next()
        self.bytes_used = self.bytes_read

    async def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._unpacker is not None:
            await self._unpacker.close()
        await self._close()

    async def _read_start(self) -> bytes:
        """Return the first bytes, enough of them to tell whether the input is compressed."""
        start = block = await self._read_stored()
        while block and is_undecided(start):
            block = await self._read_stored()
            start += block
        return start

    async def _next(self) -> bytes:
        if self._unpacker is None:
            return await self._read_stored()
        block = await self._unpacker.read()
        self.notes += self._unpacker.take_notes()
        return block

    async def _read_stored(self) -> bytes:
        try:
            block = await self._read()
        except OSError as error:
            raise InputDamagedError(
                f"{self.name}: reading failed at byte {self.bytes_read}: {error.strerror or error}: "
                "repair the input and run the same command again to go on"
            ) from error
        self.bytes_read += len(block)
        if not block:
            self._check_size()
        return block

    def _check_size(self) -> None:
        if self.size_bytes is not None and self.bytes_read < self.size_bytes:
            raise InputDamagedError(
                f"{self.name}: shrank while it was read: it ended at byte {self.bytes_read} of {self.size_bytes}: "
                "restore it and run the same command again to go on"
            )

    def _check_start(self, start: bytes) -> None:
        for magic, sentence in _FOREIGN.items():
            if start.startswith(magic):
                raise InputDamagedError(f"{self.name}: is {self._without_compression(sentence)} | llmblast run -")
        if self._unpacker is not None and (codec := codec_of(start)) is not None:
            raise InputDamagedError(
                f"{self.name}: is compressed twice: decompress it once: {self._unpacker.codec.command} FILE | "
                f"llmblast run - (inside is {codec.name})"
            )

    def _without_compression(self, sentence: str) -> str:
        """Return the sentence with a command that decompresses first, where that is needed."""
        if self._unpacker is None:
            return sentence
        command = f"{self._unpacker.codec.command} FILE |"
        what, colon, fix = sentence.rpartition(": ")
        from_pipe = fix.removesuffix(" FILE").replace("unzip -p", "funzip")  # unzip reads no pipe
        return f"{what}{colon}{command} {from_pipe}"
