"""Keys for LiteLLM's proxy, which has its own only with a database; see `limited.yaml`."""

from fastapi import Request
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

RPM = 100


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Accept any key that starts as LiteLLM's do, and limit it."""
    if not api_key.startswith("sk-"):
        raise ProxyException(message="Authentication Error", type="auth_error", param=None, code=401)
    return UserAPIKeyAuth(api_key=api_key, rpm_limit=RPM)
