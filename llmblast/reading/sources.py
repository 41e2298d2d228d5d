"""Sources: the inputs of a run, one after another, each opened when its turn comes."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from llmblast.errors import InputDamagedError, InputMissingError
from llmblast.input_paths import STDIN, expand_inputs, recorded_input, scheme_of, shown_input
from llmblast.reading.local import open_local
from llmblast.reading.source import Source


async def open_source(path: str, *, follow: bool = False) -> Source:
    """Open a file, FIFO or device by its path, standard input for `-`, or a URL. Raises InputMissingError."""
    if not scheme_of(path):
        return await open_local(path, follow=follow)
    from llmblast.reading.remote import open_remote  # noqa: PLC0415 -- most inputs are local

    return await open_remote(path)


async def open_sources(given: Sequence[str], *, follow: bool = False, are_all: bool = True) -> "Sources":
    """Find the inputs that were named, open the first one, and check that the others can be opened.

    With `follow`, the last one is read on as it grows. `are_all` tells that the run has no others, so that one alone
    needs no name in the records. Raises InputMissingError and UsageError.
    """
    paths = expand_inputs(given, follow=follow)
    first = await open_source(paths[0], follow=follow and len(paths) == 1)
    try:
        sizes = [await _size_of(path) for path in paths[1:]]
    except BaseException:
        await first.close()
        raise
    size_bytes = None if follow else _sum([first.size_bytes, *sizes])
    return Sources(first, paths, size_bytes, follow=follow, are_named=len(paths) > 1 or not are_all)


class Sources:
    """Inputs in their order. `size_bytes` is the sum of their sizes as they are stored, None where one is not known.

    `are_named` tells that records name their input.
    """

    def __init__(
        self,
        first: Source,
        paths: Sequence[str] = (STDIN,),
        size_bytes: int | None = None,
        *,
        follow: bool = False,
        are_named: bool = False,
    ) -> None:
        self.size_bytes = size_bytes
        self.notes: list[str] = []
        """Messages for a person; whoever shows them removes them."""
        self._paths = paths
        self._follow = follow
        self._are_named = are_named
        self._current: Source = first
        self._index = 0
        self._bytes_used = 0
        self._bytes_out = 0

    async def each(self) -> AsyncIterator[Source]:
        """Yield the sources, each until the next one is asked for. Raises InputDamagedError if one is gone meanwhile.

        A file that is followed is yielded anew when another one has taken its place, or when it starts anew.
        """
        for index, path in enumerate(self._paths):
            follow = self._follow and index == len(self._paths) - 1
            self._index = index
            if index:
                self._current = await _reopen(path, follow=follow)
            yield self._current
            await self._leave()
            while follow:
                self._current = await self._open_next_of(path)
                yield self._current
                await self._leave()

    @property
    def file(self) -> str | None:
        """The name of the current input for records, where there are several."""
        return recorded_input(self._paths[self._index]) if self._are_named else None

    @property
    def expected_bytes(self) -> int | None:
        """The size of all inputs once decompressed, as far as it is known: as the part that was read is compressed."""
        used, out = self._bytes_used + self._current.bytes_used, self._bytes_out + self._current.bytes_out
        if self.size_bytes is None or not used or used == out:
            return self.size_bytes
        return round(self.size_bytes * out / used)

    def take_notes(self) -> list[str]:
        """Return the messages that no earlier call has returned."""
        notes, self._current.notes, self.notes = self.notes + self._current.notes, [], []
        return notes

    async def close(self) -> None:
        """Close the current source; a second call does nothing."""
        await self._current.close()

    async def _leave(self) -> None:
        """Close the current source, and add up what was read of it."""
        source = self._current
        await source.close()
        self.notes += source.notes
        source.notes = []
        self._bytes_used, self._bytes_out = self._bytes_used + source.bytes_used, self._bytes_out + source.bytes_out
        source.bytes_used = source.bytes_out = 0

    async def _open_next_of(self, path: str) -> Source:
        from llmblast.reading.following import POLL_INTERVAL_S  # noqa: PLC0415 -- few inputs are followed

        self.notes.append(f"{path}: was truncated or replaced: reading it from its start")
        while True:
            with suppress(InputMissingError):
                return await open_source(path, follow=True)
            await asyncio.sleep(POLL_INTERVAL_S)


async def _reopen(path: str, *, follow: bool) -> Source:
    try:
        return await open_source(path, follow=follow)
    except InputMissingError as error:
        reason = str(error).removeprefix(f"{shown_input(path)}: ").split(": ")[0]
        raise InputDamagedError(
            f"{shown_input(path)}: {reason} since the run began: restore it and run the same command again to go on"
        ) from None


async def _size_of(path: str) -> int | None:
    """Return the size of an input that is not a pipe. Raises InputMissingError if it cannot be opened."""
    if path == STDIN:
        return None
    with suppress(OSError, ValueError):  # `open_source` says what is wrong
        if not scheme_of(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            return None  # opening and closing it would end its writer
    source = await open_source(path)
    await source.close()
    return source.size_bytes


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
