"""Auth: choose the header that carries the API key.

`bearer` is `Authorization: Bearer KEY` (RFC 6750); any other value of the setting is the name of a header whose value
is the key, such as `x-api-key` at many gateways. Without the setting, the provider decides.
"""

import re

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.hiding import HIDDEN, looks_like_key
from llmblast.provider_contract import Provider

BEARER = "bearer"
BEARER_HEADER = "Authorization"
DEFAULT_KEY_HEADERS = frozenset({"authorization", "api-key"})
RESERVED_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type"})
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"


def auth_header(endpoint: EndpointSettings, provider: Provider, key: str) -> tuple[str, str]:
    """Return name and value of the header that carries the key: by the settings, else by the provider."""
    auth = endpoint.auth
    if not auth:
        return provider.auth_header(endpoint.url, key)
    return (BEARER_HEADER, f"Bearer {key}") if auth.lower() == BEARER else (auth, key)


def check_auth(endpoint: EndpointSettings) -> None:
    """Raise UsageError for a value of `auth` that names no header."""
    auth = endpoint.auth
    if auth is None:
        return
    if not re.fullmatch(_TOKEN, auth) or looks_like_key(auth):
        raise UsageError(
            f"endpoint {endpoint.name}: auth {HIDDEN} is not a header: write bearer, api-key, x-api-key or the name of "
            "the header for the key, and put the key into a variable: key_env=NAME"
        )
    if auth.lower() in RESERVED_HEADERS:
        raise UsageError(f"endpoint {endpoint.name}: auth {auth}: llmblast sets this header itself: name another one")
