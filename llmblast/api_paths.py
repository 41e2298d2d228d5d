"""Paths of requests to OpenAI's API and to those that are like it."""

from collections.abc import Mapping

from llmblast.urls import base_of

API_PATHS: Mapping[str, tuple[str, ...]] = {
    "chat/completions": ("messages",),
    "completions": ("prompt", "prompt_embeds"),
    "embeddings": ("input", "messages"),
    "responses": ("input", "prompt"),
    "moderations": ("input",),
    "rerank": ("query",),
    "v2/rerank": ("query",),
    "score": ("text_1", "data_1", "queries"),
    "images/generations": ("prompt",),
    "images/edits": ("prompt",),
    "videos": ("prompt",),
    "audio/transcriptions": (),
    "audio/translations": (),
    "fim/completions": ("prompt",),
    "agents/completions": ("messages",),
    "chat/moderations": ("input", "messages"),
    "classifications": ("input",),
    "classify": ("input", "messages"),
    "pooling": ("input", "messages"),
    "contextualizedembeddings": ("inputs",),
    "ocr": ("document",),
}
"""Paths of requests, relative to the base URL of an endpoint, each with the members of which its body needs one.

Source: the batch APIs of OpenAI, Mistral and Voyage, vLLM's run-batch, and vLLM's pooling models.
"""


def base_url(url: str) -> str:
    """Return the base of an endpoint's URL, which API paths are appended to."""
    return base_of(url, tuple(API_PATHS))
