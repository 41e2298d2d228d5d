"""Proxies: find the proxy of an endpoint by its setting or by the environment, under curl's rules.

The setting `proxy` has priority; `none` means a direct connection. Else `https_proxy` or `HTTPS_PROXY` counts for an
https endpoint and `http_proxy` for an http one, then `all_proxy` or `ALL_PROXY`. `HTTP_PROXY` in capitals is not read:
a CGI script's environment has it from a request's `Proxy` header (https://httpoxy.org). `no_proxy` or `NO_PROXY` lists
hosts without a proxy; loopback addresses have to be listed like all others: https://everything.curl.dev/usingcurl/proxies/env.html
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.hiding import shown_url

NO_PROXY = "none"
DEFAULT_PORTS = {"http": 80, "https": 443}
PROXY_PORTS = {"http": 1080, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
"""Default ports of curl."""
_SOCKS_PACKAGE = "python_socks"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. Neither its text nor its repr shows user and password."""

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        """Return whether the proxy speaks SOCKS instead of HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """Return its URL without user and password."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def authorization(self) -> str:
        """Return the value of `Proxy-Authorization` (RFC 7617); empty without user and password."""
        if not (self.user or self.password):
            return ""
        return f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the texts that must not be shown."""
        return tuple(text for text in (self.password, self.authorization.removeprefix("Basic ")) if text)

    def __str__(self) -> str:
        return self.url


def find_proxy(endpoint: EndpointSettings, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy of an endpoint, None for a direct connection. Raises UsageError for one that cannot be used."""
    if endpoint.is_mock or endpoint.unix_socket is not None:
        return None
    if endpoint.proxy is not None:
        is_direct = endpoint.proxy.lower() in (NO_PROXY, "")
        return None if is_direct else _parse(endpoint.proxy, f"endpoint {endpoint.name}: proxy")
    parts = urlsplit(endpoint.url)
    name = _variable_for(parts.scheme, environ)
    if name is None or is_excluded(parts, environ):
        return None
    return _parse(environ[name].strip(), f"endpoint {endpoint.name}: the variable {name}")


def forwarder(proxy: Proxy | None, base: str) -> Proxy | None:
    """Return the proxy if it forwards requests: for https and through SOCKS it opens a tunnel instead."""
    if proxy is None or proxy.is_socks or not base.lower().startswith("http://"):
        return None
    return proxy


def ignored_variable(endpoint: EndpointSettings, environ: Mapping[str, str]) -> str | None:
    """Return `HTTP_PROXY` where that variable would apply to this endpoint, and is not read."""
    parts = urlsplit(endpoint.url)
    is_meant = (
        not (endpoint.is_mock or endpoint.unix_socket)
        and endpoint.proxy is None
        and parts.scheme == "http"
        and environ.get("HTTP_PROXY")
    )
    if is_meant and _variable_for("http", environ) is None and not is_excluded(parts, environ):
        return "HTTP_PROXY"
    return None


def _variable_for(scheme: str, environ: Mapping[str, str]) -> str | None:
    names = [f"{scheme}_proxy", *(["HTTPS_PROXY"] if scheme == "https" else []), "all_proxy", "ALL_PROXY"]
    return next((name for name in names if environ.get(name, "").strip()), None)


def _parse(url: str, place: str) -> Proxy:
    """Parse the URL of a proxy; the default scheme is http. Raises UsageError, which shows no password."""
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    scheme = full.partition("://")[0].lower()
    if not host or any(character.isspace() for character in full) or port == 0:
        raise UsageError(
            f"{place}: {shown_url(url)!r} is not a proxy URL: write http://HOST:PORT, and characters such as / # ? @ "
            "of a password as %2F %23 %3F %40"
        )
    if scheme == "socks":
        scheme = "socks5"
    if scheme not in PROXY_PORTS:
        known = ", ".join(PROXY_PORTS)
        raise UsageError(f"{place}: {shown_url(url)!r} has an unknown scheme: known are {known}")
    if scheme.startswith("socks") and find_spec(_SOCKS_PACKAGE) is None:
        raise UsageError(
            f"{place}: {shown_url(url)!r} is a SOCKS proxy, which needs an extra: pip install 'llmblast[socks]'"
        )
    return Proxy(
        scheme, host, port or PROXY_PORTS[scheme], unquote(parts.username or ""), unquote(parts.password or "")
    )


def is_excluded(parts: SplitResult, environ: Mapping[str, str]) -> bool:
    """Return whether `no_proxy` or `NO_PROXY` names the host; a name includes its subdomains."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    host, port = (parts.hostname or "").rstrip("."), parts.port or DEFAULT_PORTS.get(parts.scheme)
    return any(_is_named(host.lower(), port, entry.lower()) for entry in listed.replace(",", " ").split())


def _is_named(host: str, port: int | None, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        name, entry_port = _split_port(entry)
        name = name.removeprefix("*").strip(".")
        return entry_port in (None, port) and bool(name) and (host == name or host.endswith(f".{name}"))
    for text, entry_port in ((entry.strip("[]"), None), _split_port(entry)):
        try:
            if address in ip_network(text.strip("[]"), strict=False):
                return entry_port in (None, port)
        except ValueError:
            continue
    return False


def _split_port(entry: str) -> tuple[str, int | None]:
    name, colon, port = entry.rpartition(":")
    return (name, int(port)) if colon and port.isdecimal() else (entry, None)
