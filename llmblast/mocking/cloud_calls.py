"""Calls of APIs whose paths name the model: Gemini, Vertex AI, Bedrock and Azure OpenAI, as the mock provider has them.

Each API is one line in `CALLS`: the pattern of its paths, whose group is the model, and its operation.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

GENERATE, CONVERSE, RAW_PREDICT = "generateContent", "converse", "rawPredict"
STREAM_GENERATE = "streamGenerateContent"
GEMINI, BEDROCK, VERTEX_ANTHROPIC, AZURE = "gemini", "bedrock", "vertex-anthropic", "azure"
_PLACE = r"(?:/projects/[^/]+/locations/[^/]+)?"
_GENERATES = f"{GENERATE}|{STREAM_GENERATE}"
_OPENAI = "chat/completions|completions|embeddings"

CALLS = (
    (GEMINI, rf"/v1(?:beta|beta1|alpha)?{_PLACE}(?:/publishers/google)?/(?:tuned)?[mM]odels/([^/]+):({_GENERATES})"),
    (VERTEX_ANTHROPIC, rf"/v1(?:beta1)?{_PLACE}/publishers/anthropic/models/([^/]+):({RAW_PREDICT})"),
    (BEDROCK, rf"(?:/v1)?/model/([^/]+)/({CONVERSE})"),
    (AZURE, rf"/openai/deployments/([^/]+)/({_OPENAI})"),
    (AZURE, rf"/openai/v1()/({_OPENAI})"),
)
REQUEST_ID_HEADERS = {
    GEMINI: "x-goog-request-id",
    BEDROCK: "x-amzn-requestid",
    VERTEX_ANTHROPIC: "request-id",
    AZURE: "apim-request-id",
}
SILENT_ABOUT_LIMITS = (GEMINI, BEDROCK, VERTEX_ANTHROPIC)
"""APIs that have no headers for limits."""


class CloudCall(NamedTuple):
    """API, operation and model that a path names; `model` is empty where the body names it."""

    api: str
    operation: str
    model: str


@lru_cache(maxsize=256)
def cloud_call(path: str) -> CloudCall | None:
    """Return the call that a path without its query asks for."""
    for api, pattern in CALLS:
        if (found := re.fullmatch(pattern, path)) is not None:
            return CloudCall(api, found[2], unquote(found[1]))
    return None
