"""Clients of the providers' batch APIs, which answer within a day at a lower price. The contract is `api.BatchApi`."""

from collections.abc import Callable, Mapping

from llmblast.batching.api import Access, BatchApi
from llmblast.batching.openai import OpenAIBatches

__all__ = ["BATCH_APIS"]

BATCH_APIS: Mapping[str, Callable[[Access], BatchApi]] = {"openai": OpenAIBatches, "openai-responses": OpenAIBatches}
"""By the kinds of providers."""
