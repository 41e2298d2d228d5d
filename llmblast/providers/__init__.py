"""Providers: one file an API. How a request is written, and what a reply, an error and a rate-limit header mean."""

from llmblast.providers.finish_reasons import is_flagged
from llmblast.providers.openai import OpenAI

__all__ = ["OpenAI", "is_flagged"]
