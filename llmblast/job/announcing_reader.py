"""Announcing reader: tell the ordered writer which lines will have a record, in their order, before they are sent."""

from collections.abc import AsyncIterator, Callable

from llmblast.job.batch_parser import Batch
from llmblast.models import Line, Request


async def announced(batches: AsyncIterator[Batch], expect: Callable[[Line], None]) -> AsyncIterator[Batch]:
    """Yield the batches; call `expect` for each of their lines first."""
    async for batch in batches:
        for item in batch:
            expect(item if isinstance(item, Request) else item.line)
        yield batch
