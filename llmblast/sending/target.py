"""Target: URL, headers, model and proxy of one endpoint, prepared once."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ssl import SSLContext
from typing import Final
from urllib.parse import urlsplit

import orjson

from llmblast.errors import UsageError
from llmblast.models import Provider, RawBody, Rendering, Request
from llmblast.sending.auth import DEFAULT_KEY_HEADERS, auth_header, check_auth
from llmblast.sending.proxies import Proxy, find_proxy
from llmblast.settings import EndpointSettings

USER_AGENT = "llmblast/0.1"
_RESERVED_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_VERSION = r"/v\d+$"
_OWN_VERSION = r"v\d+/"
"""Paths such as `v2/rerank` replace the version in the base URL."""
_MAX_COPIED_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """URL, headers, model and proxy of one endpoint. `headers` may hold the key and never show in a repr."""

    name: str
    base: str
    provider: Provider
    headers: Mapping[str, str] = field(repr=False)
    model_prefix: bytes
    """`{"model":"...",`, which replaces the opening brace of a body that has no model; empty without a model."""
    auth_header: Callable[[str], tuple[str, str]] = field(repr=False)
    """Returns name and value of the header for a key."""
    own_headers: frozenset[str] = frozenset()
    """Headers in the endpoint's settings, in lower case: they replace headers of the same name, even the key's."""
    proxy: Proxy | None = None
    tls: SSLContext | None = None
    """The certificates of an https endpoint, where they are not the default."""
    unix_socket: str | None = None
    """The file at which the server listens, where that is no port."""

    def with_key(self, key: str) -> "Target":
        """Return the same target with another API key."""
        name, value = self.auth_header(key)
        if name.lower() in self.own_headers:
            return self
        replaced = {name.lower(), *DEFAULT_KEY_HEADERS} - self.own_headers
        kept = {header: text for header, text in self.headers.items() if header.lower() not in replaced}
        return replace(self, headers={**kept, name: value})

    def rendering_of(self, request: Request) -> Request | Rendering:
        """Return path and body for this endpoint's provider: the request's, or rendered once for each other kind."""
        return rendering_for(self.provider, request)

    def body_of(self, request: Request | Rendering) -> bytes:
        """Return the JSON to send: the request's, with this endpoint's model where it names none."""
        start, rest = self.parts_of(request)
        return start + rest if start else request.body

    def parts_of(self, request: Request | Rendering) -> tuple[bytes, bytes | memoryview]:
        """Return the JSON to send in two parts, so that a long prompt is not copied to put the model in front of it."""
        body = request.body
        if not request.needs_model or not self.model_prefix:
            return b"", body
        return self.model_prefix, body[1:] if len(body) <= _MAX_COPIED_BYTES else memoryview(body)[1:]

    def url_of(self, path: str) -> str:
        """Return the URL for `path`; a query in the base URL, such as `?api-version=`, stays at its end."""
        parts = urlsplit(self.base)
        base = re.sub(_VERSION, "", parts.path) if re.match(_OWN_VERSION, path) else parts.path
        return parts._replace(path=f"{base}/{path}").geturl()


def rendering_for(provider: Provider, request: Request) -> Request | Rendering:
    """Return path and body of a request for a provider: the request's, or rendered once for each other kind."""
    kind, content = provider.kind, request.content
    if request.kind == kind or content is None:
        return request
    if isinstance(content, RawBody):
        return Rendering(provider.dialects[content.dialect], request.body, request.needs_model)
    if content.renderings is None:
        content.renderings = {}
    rendering = content.renderings.get(kind)
    if rendering is None:
        path, body = provider.render(content)
        rendering = content.renderings[kind] = Rendering(path, body, needs_model=True)
    return rendering


def make_target(
    endpoint: EndpointSettings,
    model: str | None,
    key: str | None,
    provider: Provider,
    environ: Mapping[str, str] | None = None,
) -> Target:
    """Return the target of an endpoint. Its own model and headers replace the run's `model` and the default headers.
    `environ` may name proxies.

    Raises UsageError for a header that HTTP cannot carry or that the transports write themselves, for a proxy and for
    certificates that cannot be used. Reads files.
    """
    headers = {
        "User-Agent": USER_AGENT,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        **provider.headers,
    }
    for header, value in endpoint.headers.items():
        _check_header(endpoint.name, header, value)
    check_auth(endpoint)
    theirs = frozenset(header.lower() for header in endpoint.headers)
    headers = {header: value for header, value in headers.items() if header.lower() not in theirs}
    headers.update(endpoint.headers)
    name = endpoint.model or model
    prefix = b'{"model":' + orjson.dumps(name) + b"," if name else b""
    target = Target(
        endpoint.name,
        provider.base_url(endpoint.url),
        provider,
        headers,
        prefix,
        partial(auth_header, endpoint, provider),
        theirs,
        find_proxy(endpoint, environ or {}),
        _tls_context(endpoint),
        endpoint.unix_socket,
    )
    return target if key is None else target.with_key(key)


def _tls_context(endpoint: EndpointSettings) -> SSLContext | None:
    if not (endpoint.ca_file or endpoint.client_cert or endpoint.client_key):
        return None
    from llmblast.sending.tls import new_tls_context  # noqa: PLC0415 -- few endpoints have certificates of their own

    return new_tls_context(endpoint)


def _check_header(endpoint: str, name: str, value: str) -> None:
    if name.lower() in _RESERVED_HEADERS:
        raise UsageError(f"endpoint {endpoint}: the header {name} is set by llmblast itself: remove it from headers")
    is_token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not is_token or not (value.isascii() and value.isprintable()):
        raise UsageError(f"endpoint {endpoint}: the header {name!r} or its value has wrong characters: correct it")
