"""Auth: in which header an API key goes, and how.

`bearer` is `Authorization: Bearer KEY` (RFC 6750); any other value of the setting is the name of a header that takes
the key as it is: `api-key` at Azure OpenAI, `x-api-key` at Anthropic and many gateways.
"""

import re

from llmblast.errors import UsageError
from llmblast.hiding import HIDDEN, looks_like_key
from llmblast.settings import EndpointSettings
from llmblast.urls import host_of, is_azure

BEARER = "bearer"
BEARER_HEADER = "Authorization"
AZURE_HEADER = "api-key"
DEFAULT_KEY_HEADERS = frozenset({"authorization", "api-key"})
HEADERS_OF_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type"})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
"""RFC 7519: what Microsoft Entra ID issues, and Azure takes as a bearer token only."""


def auth_header(endpoint: EndpointSettings, key: str) -> tuple[str, str]:
    """Return name and value of the header that brings the key."""
    auth = endpoint.auth
    if not auth:
        auth = AZURE_HEADER if is_azure(host_of(endpoint.url)) and not _JWT.fullmatch(key) else BEARER
    return (BEARER_HEADER, f"Bearer {key}") if auth.lower() == BEARER else (auth, key)


def check_auth(endpoint: EndpointSettings) -> None:
    """Raise UsageError for a value of `auth` that names no header."""
    auth = endpoint.auth
    if auth is None:
        return
    if not _TOKEN.fullmatch(auth) or looks_like_key(auth):
        raise UsageError(
            f"endpoint {endpoint.name}: auth {HIDDEN} is not a header: write bearer, api-key, x-api-key or the name of "
            "the header for the key, and put the key into a variable: key_env=NAME"
        )
    if auth.lower() in HEADERS_OF_OURS:
        raise UsageError(f"endpoint {endpoint.name}: auth {auth}: llmblast sets this header itself: name another one")
