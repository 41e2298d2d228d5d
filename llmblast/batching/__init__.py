"""Clients of the providers' batch APIs, which answer within a day at a lower price. The contract is `api.BatchApi`."""

from collections.abc import Callable, Mapping
from typing import Final

from llmblast.batching.anthropic import AnthropicBatches
from llmblast.batching.api import Access, BatchApi
from llmblast.batching.azure import AzureBatches
from llmblast.batching.gemini import GeminiBatches
from llmblast.batching.mistral import MistralBatches
from llmblast.batching.openai import OpenAIBatches

__all__ = ["BATCH_APIS", "batch_api_of"]

MISTRAL: Final = "mistral"
_MISTRAL_HOSTS = ("api.mistral.ai",)
BATCH_APIS: Mapping[str, Callable[[Access], BatchApi]] = {
    "openai": OpenAIBatches,
    "openai-responses": OpenAIBatches,
    "azure": AzureBatches,
    "anthropic": AnthropicBatches,
    "gemini": GeminiBatches,
    MISTRAL: MistralBatches,
}
"""By the kinds of providers. Mistral's requests are OpenAI's, so that it is no kind; its batches are its own."""


def batch_api_of(kind: str, host: str | None) -> str | None:
    """Return the name in `BATCH_APIS` for an endpoint with this kind of provider; None where it has no batch API."""
    if kind == "openai" and host in _MISTRAL_HOSTS:
        return MISTRAL
    return kind if kind in BATCH_APIS else None
