"""Clients of the providers' batch APIs, which answer within a day at a lower price. The contract is `api.BatchApi`."""

from collections.abc import Callable, Mapping

from llmblast.batching.anthropic import AnthropicBatches
from llmblast.batching.api import Access, BatchApi
from llmblast.batching.azure import AzureBatches
from llmblast.batching.gemini import GeminiBatches
from llmblast.batching.mistral import MistralBatches
from llmblast.batching.openai import OpenAIBatches
from llmblast.urls import host_of

__all__ = ["BATCH_APIS"]

_MISTRAL_HOSTS = ("api.mistral.ai", "codestral.mistral.ai")
"""Hosts that take the requests of OpenAI, and batches in a form of their own."""


def _with_requests_of_openai(access: Access) -> BatchApi:
    return MistralBatches(access) if host_of(access.base_url) in _MISTRAL_HOSTS else OpenAIBatches(access)


BATCH_APIS: Mapping[str, Callable[[Access], BatchApi]] = {
    "openai": _with_requests_of_openai,
    "openai-responses": OpenAIBatches,
    "azure": AzureBatches,
    "anthropic": AnthropicBatches,
    "gemini": GeminiBatches,
}
"""Makers of clients by the kinds of providers; the others have no batch API that takes uploaded files."""
