"""Announcing reader: tell the ordered writer which lines will have a record, in their order, before they are sent."""

from collections.abc import AsyncIterator, Callable

from llmblast.job.batch_parser import Batch
from llmblast.job.input_reader import InputReader
from llmblast.models import Line, Request


class AnnouncingReader:
    """Yield the batches of another reader; call `expect` for each of their lines first."""

    def __init__(self, reader: InputReader, expect: Callable[[Line], None]) -> None:
        self._reader = reader
        self._expect = expect

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield requests and failures. Raises InputDamagedError where the input breaks off."""
        async for batch in self._reader.batches():
            for item in batch:
                self._expect(item if isinstance(item, Request) else item.line)
            yield batch
