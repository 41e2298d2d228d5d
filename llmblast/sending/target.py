"""Target: URL, headers, model and proxy of one endpoint, prepared once."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ssl import SSLContext
from typing import Final, NoReturn
from urllib.parse import quote, urlsplit

import orjson

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import RawBody, Rendering, Request
from llmblast.provider_contract import (
    MODEL_PLACE,
    PathProvider,
    Provider,
    Signer,
    can_sign,
    has_flex,
    names_model_in_path,
    writes_model,
)
from llmblast.sending.auth import BEARER_HEADER, DEFAULT_KEY_HEADERS, auth_header, check_auth
from llmblast.sending.proxies import Proxy, find_proxy

USER_AGENT = "llmblast/0.1"
MOCK_MODEL = "mock"
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
    signer: Signer | None = field(default=None, repr=False)
    """Adds headers to each request that depend on its body."""
    addressing: PathProvider | None = None
    """The provider where its paths name the model, and"""
    model: str = ""
    """the model that they name where the line has none."""
    takes_model: bool = True
    """A body without a model gets one as its first member."""
    unix_socket: str | None = None
    """The file at which the server listens, where that is no port."""
    model_directory: str = ""
    """Last segments of the base URL, with `{model}`, where they name the model: those of a line with a model of its own
    name that.
    """
    flex_bit: int = 0
    """The bit of the endpoint in the set of those whose flex tier an attempt asks for."""

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
        rendering = rendering_for(self.provider, request)
        model = rendering.model
        if not self.model_directory or model is None:
            return rendering
        path = f"{_with_model(self.model_directory, model)}/{rendering.path}"
        return Rendering(path, rendering.body, rendering.needs_model, model)

    def body_of(self, request: Request | Rendering, flex_at: int = 0) -> bytes:
        """Return the JSON to send: the request's, with this endpoint's model where it names none."""
        start, rest = self.parts_of(request)
        if flex_at:
            start, rest = self.with_flex(flex_at, start, rest)
        return start + rest if start else request.body

    def parts_of(self, request: Request | Rendering) -> tuple[bytes, bytes | memoryview]:
        """Return the JSON to send in two parts, so that a long prompt is not copied to put the model in front of it."""
        body, prefix = request.body, self.model_prefix
        if not request.needs_model:
            return b"", body
        if request.model is not None and self.takes_model:
            prefix = b'{"model":' + orjson.dumps(request.model) + b","
        if not prefix:
            return b"", body
        return prefix, body[1:] if len(body) <= _MAX_COPIED_BYTES else memoryview(body)[1:]

    def with_flex(self, flex_at: int, start: bytes, body: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
        """Return the two parts of a JSON to send, which asks for the flex tier where that is asked of this endpoint."""
        provider = self.provider
        if not flex_at & self.flex_bit or not has_flex(provider):
            return start, body
        opening = b"{" + provider.flex_member + b","
        return (opening + start[1:], body) if start else (opening, body[1:])

    def headers_for(self, own: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers of a request whose line sets some itself; these replace headers of the same name."""
        names = {name.lower() for name in own}
        return {**{name: value for name, value in self.headers.items() if name.lower() not in names}, **own}

    def url_of(self, path: str) -> str:
        """Return the URL for `path`; a query in the base URL, such as `?api-version=`, stays at its end."""
        parts = urlsplit(self.base)
        if self.model_directory and not path.startswith(self.model_directory.partition(MODEL_PLACE)[0]):
            path = f"{_with_model(self.model_directory, self.model)}/{path}"
        if self.addressing is not None:
            path = self.addressing.path_for(path, self.model)
        base = re.sub(_VERSION, "", parts.path) if re.match(_OWN_VERSION, path) else parts.path
        return parts._replace(path=f"{base}/{path}").geturl()


def rendering_for(provider: Provider, request: Request) -> Request | Rendering:
    """Return path and body of a request for a provider: the request's, or rendered once for each other kind."""
    kind, content = provider.kind, request.content
    if request.kind == kind or content is None:
        return request
    if isinstance(content, RawBody):
        path = provider.dialects[content.dialect]
        if request.model is not None and names_model_in_path(provider):
            path = provider.path_for(path, request.model)
        return Rendering(path, request.body, request.needs_model, request.model)
    if content.renderings is None:
        content.renderings = {}
    rendering = content.renderings.get(kind)
    if rendering is None:
        path, body = provider.render(content)
        if content.model is not None and names_model_in_path(provider):
            path = provider.path_for(path, content.model)
        rendering = content.renderings[kind] = Rendering(path, body, True, content.model)
    return rendering


def make_target(
    endpoint: EndpointSettings,
    model: str | None,
    key: str | None,
    provider: Provider,
    environ: Mapping[str, str] | None = None,
    *,
    is_mock: bool = False,
) -> Target:
    """Return the target of an endpoint. Its own model and headers replace the run's `model` and the default headers.
    `environ` may name proxies and credentials. The built-in mock (`is_mock`) needs neither a model nor a signature.

    Raises UsageError for a header that HTTP cannot carry or that the transports write themselves, for a proxy and for
    certificates that cannot be used, where a URL has to name a model and there is none, and where there is no
    credential to sign with. Reads files.
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
    name = model_of(endpoint, model, provider, is_mock=is_mock)
    prefix = b'{"model":' + orjson.dumps(name) + b"," if name and not writes_model(provider) else b""
    addressing = provider if names_model_in_path(provider) else None
    base, directory = _split_at_model(provider.base_url(endpoint.url))
    if directory and name is None:
        _missing_model(endpoint, provider)
    target = Target(
        endpoint.name,
        base,
        provider,
        headers,
        prefix if addressing is None else addressing.body_prefix,
        partial(auth_header, endpoint, provider),
        theirs,
        find_proxy(endpoint, environ or {}),
        _tls_context(endpoint),
        None if key is not None or is_mock else _find_signer(endpoint, provider, theirs, environ or {}),
        addressing,
        name or "",
        addressing is None and not writes_model(provider),
        endpoint.unix_socket,
        directory,
    )
    return target if key is None else target.with_key(key)


def model_of(endpoint: EndpointSettings, model: str | None, provider: Provider, *, is_mock: bool = False) -> str | None:
    """Return the model of an endpoint: by its settings, else by its URL where that names one, else the run's `model`.

    Raises UsageError where the API needs one in each URL and there is none.
    """
    if endpoint.model or not names_model_in_path(provider):
        return endpoint.model or model
    name = provider.model_in(endpoint.url) or model
    if name is None and not is_mock:
        _missing_model(endpoint, provider)
    return name or MOCK_MODEL


def check_model(endpoint: EndpointSettings, model: str | None, provider: Provider) -> None:
    """Raise UsageError where the URLs of an endpoint have to name a model and there is none."""
    if endpoint.is_mock:
        return
    name = model_of(endpoint, model, provider)
    if name is None and MODEL_PLACE in provider.base_url(endpoint.url):
        _missing_model(endpoint, provider)


def _split_at_model(base: str) -> tuple[str, str]:
    """Return a base URL without the segments that name the model, and these: `deployments/{model}`."""
    parts = urlsplit(base)
    if MODEL_PLACE not in parts.path:
        return base, ""
    path, name, place = parts.path.rsplit("/", 2)
    return parts._replace(path=path).geturl(), f"{name}/{place}"


def _with_model(directory: str, model: str) -> str:
    return directory.replace(MODEL_PLACE, quote(model, safe=""))


def _missing_model(endpoint: EndpointSettings, provider: Provider) -> NoReturn:
    raise UsageError(
        f"endpoint {endpoint.name}: the model is missing, which the URL of each {provider.kind} request needs: "
        "add model=NAME, or --model NAME"
    )


def _find_signer(
    endpoint: EndpointSettings, provider: Provider, own_headers: frozenset[str], environ: Mapping[str, str]
) -> Signer | None:
    if BEARER_HEADER.lower() in own_headers or not can_sign(provider):
        return None
    return provider.new_signer(endpoint.name, endpoint.url, environ)


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
