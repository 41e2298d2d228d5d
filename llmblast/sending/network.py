"""Network notes: report proxies and wrong settings of trusted certificates before the first request."""

from collections.abc import Mapping, Sequence

from llmblast.endpoint_settings import EndpointSettings
from llmblast.sending.proxies import find_proxy, ignored_variable


def connection_notes(
    endpoints: Sequence[EndpointSettings], environ: Mapping[str, str], *, verbose: bool
) -> Sequence[str]:
    """Return warnings about the environment; with `verbose` also the proxies that are used. Raises UsageError."""
    notes: list[str] = []
    if any(endpoint.url.lower().startswith("https://") for endpoint in endpoints):
        from llmblast.sending.tls import certificate_notes  # noqa: PLC0415 -- for https only

        notes += certificate_notes(environ)
    if verbose:
        notes += [note for endpoint in endpoints if (note := _proxy_note(endpoint, environ))]
    return notes


def _proxy_note(endpoint: EndpointSettings, environ: Mapping[str, str]) -> str:
    proxy, ignored = find_proxy(endpoint, environ), ignored_variable(endpoint, environ)
    if proxy is not None:
        return f"{endpoint.name}: requests go through the proxy {proxy}"
    if ignored is not None:
        return f"{endpoint.name}: the variable {ignored} is not used, as with curl: set http_proxy, or proxy=URL"
    return ""
