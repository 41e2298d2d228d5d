"""Paths: find the API of a request body by the path in a URL, else by the members of the body.

Members of each API: https://platform.openai.com/docs/api-reference; score and rerank as vLLM, Cohere and Jina take
them.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from llmblast.api_paths import API_PATHS
from llmblast.settings import Settings

_SEGMENT = r"[\w~+@=-][\w.~+@:=%-]*/"
_KNOWN = "|".join(map(re.escape, sorted(API_PATHS, key=len, reverse=True)))
"""Longest first, since `/v1/fim/completions` also ends in `completions`."""
_URL = re.compile(rf"(?:(?i:https?)://[^/?#]+/)?/?(?:{_SEGMENT})*?({_KNOWN})/?(?:[?#].*)?", re.ASCII | re.DOTALL)
_MAX_URL_CHARACTERS = 2000
_RESPONSES = "responses"
_ONLY_IN_RESPONSES = frozenset(
    {
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "previous_response_id",
        "conversation",
        "reasoning",
        "text",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "include",
        "store",
        "background",
        "temperature",
        "top_p",
        "top_logprobs",
        "truncation",
    }
)
"""Members that an embeddings request, which also has an `input`, does not have."""

DIALECTS: Mapping[str, str] = {path: f"openai.{path}" for path in API_PATHS} | {"chat/completions": "openai.chat"}
"""The name of each API by its path."""

WITHOUT_TEXT = frozenset(API_PATHS) - {
    *("chat/completions", "completions", "responses", "audio/transcriptions", "audio/translations"),
    *("fim/completions", "agents/completions"),
}
"""Paths whose answers are vectors, scores or files."""


@lru_cache(maxsize=256)
def path_of_url(url: str) -> str | None:
    """Return the API path at the end of a URL or of its path; None if there is none that llmblast knows.

    `/v1/chat/completions`, `/openai/deployments/NAME/chat/completions?api-version=...` and whole URLs are equal.
    """
    match = _URL.fullmatch(url) if len(url) <= _MAX_URL_CHARACTERS else None
    return match[1] if match else None


class PathFinder:
    """Find the path of bodies without a URL; a path in the URL of an endpoint has priority if it fits the body."""

    def __init__(self, settings: Settings) -> None:
        named = (path_of_url(endpoint.url) for endpoint in settings.endpoints if not endpoint.is_mock)
        self._named = tuple(dict.fromkeys(path for path in named if path is not None))

    def find(self, body: Mapping[str, object]) -> str | None:
        """Return the path that takes `body`, None where its members fit no path."""
        return self.named_for(body) or path_of_body(body)

    def named_for(self, body: Mapping[str, object]) -> str | None:
        """Return the path in the URL of an endpoint that takes `body`, None where there is none."""
        return next((path for path in self._named if fits(path, body)), None)


def path_of_body(body: Mapping[str, object]) -> str | None:
    """Return the path that takes a body with these members, None where they fit no path."""
    if "messages" in body:
        return "chat/completions"
    if "input" in body:
        return _RESPONSES if _is_for_responses(body) else "embeddings"
    if "prompt" in body:
        return _RESPONSES if fits(_RESPONSES, body) else "completions"
    if "query" in body and "documents" in body:
        return "rerank"
    return "score" if _has_pairs(body) else None


def fits(path: str, body: Mapping[str, object]) -> bool:
    """Return whether a body has one of the members that `path` requires."""
    if path == _RESPONSES and type(body.get("prompt")) is not dict:
        return "input" in body  # the prompt of Responses is a stored one: {"id": ...}
    members = API_PATHS[path]
    return not members or any(member in body for member in members)


def _has_pairs(body: Mapping[str, object]) -> bool:
    """Return whether a body has both sides of the pairs that `score` compares."""
    return any(first in body for first in ("text_1", "data_1", "queries")) and any(
        second in body for second in ("text_2", "data_2", "documents", "items")
    )


def _is_for_responses(body: Mapping[str, object]) -> bool:
    """Return whether a body with an `input` asks for a response rather than for embeddings."""
    if not _ONLY_IN_RESPONSES.isdisjoint(body):
        return True
    items = body["input"]
    return type(items) is list and bool(items) and type(items[0]) is dict and ("role" in items[0] or "type" in items[0])
