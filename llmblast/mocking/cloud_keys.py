"""Keys of the clouds: is a request allowed, by its API key, its token, or its signature.

A signature is compared with the one that botocore makes of the request as it came, for the key of the mock as the
secret. Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from llmblast.mocking.cloud_calls import AZURE, GEMINI
from llmblast.mocking.quick import Incoming

_SIGNED = (
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([\w-]+)/bedrock/aws4_request, *"
    r"SignedHeaders=([\w;-]+), *Signature=([0-9a-f]{64})"
)
_KEY_HEADERS = {GEMINI: "x-goog-api-key", AZURE: "api-key"}


def is_allowed(api: str, incoming: Incoming, key: str) -> bool:
    """Return whether a request to an API carries the key, as itself, as a bearer token, or in its signature."""
    authorization = incoming.authorization or ""
    if authorization.startswith("AWS4-"):
        return is_signature_right(incoming, key)
    header = _KEY_HEADERS.get(api, "")
    return authorization == f"Bearer {key}" or (bool(header) and incoming.headers.get(header) == key)


def has_key(incoming: Incoming, key: str | None) -> bool:
    """Return whether a request carries the key in any header that an API has for it, or in its query."""
    if not key or incoming.authorization == f"Bearer {key}" or incoming.api_key == key:
        return True
    if any(incoming.headers.get(header) == key for header in _KEY_HEADERS.values()):
        return True
    return ("key", key) in parse_qsl(urlsplit(incoming.path).query)


def is_signature_right(incoming: Incoming, secret: str) -> bool:
    """Return whether a request was signed with the secret, just as it came."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415 -- an extra, for signed requests only
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 -- as above
    from botocore.credentials import Credentials  # noqa: PLC0415 -- as above

    found = re.fullmatch(_SIGNED, incoming.authorization or "")
    headers: Mapping[str, str] = incoming.headers
    if found is None or not {"host", "x-amz-date"} <= set(found[4].split(";")):
        return False
    signed = {name: headers[name] for name in found[4].split(";") if name in headers}
    token = headers.get("x-amz-security-token")
    signer = SigV4Auth(Credentials(found[1], secret, token), "bedrock", found[3])
    request = AWSRequest(incoming.method, f"http://{headers.get('host', '')}{incoming.path}", signed, incoming.body)
    request.context["timestamp"] = headers.get("x-amz-date", "")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    is_of_the_day = found[2] == request.context["timestamp"][:8]
    return is_of_the_day and bool(signer.signature(text, request) == found[5])
