"""Announcing reader: tell the ordered writer which lines will have a record, in their order, before they are sent."""

from collections.abc import AsyncIterator

from llmblast.job.batch_parser import Batch
from llmblast.models import Request
from llmblast.writing.ordered_writer import OrderedWriter


async def announced(batches: AsyncIterator[Batch], writer: object) -> AsyncIterator[Batch]:
    """Yield the batches. An ordered writer expects each of their lines before they are yielded; no other one does."""
    async for batch in batches:
        if isinstance(writer, OrderedWriter):
            for item in batch:
                writer.expect(item if isinstance(item, Request) else item.line)
        yield batch
