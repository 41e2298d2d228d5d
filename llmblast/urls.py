"""URLs: check hosts, and find the base URL of an endpoint in the URL that a person has pasted."""

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

_NEVER_IN_A_HOST = frozenset("<>\"{}|\\^`%$&'()*+,;=!~")
_MAX_HOST, _MAX_LABEL = 253, 63
_AZURE_DOMAINS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def is_azure(host: str | None) -> bool:
    """Return whether the host is an OpenAI resource of Azure, which reads its key from the header `api-key`."""
    return host is not None and host.lower().rstrip(".").endswith(_AZURE_DOMAINS)


def host_of(url: str) -> str | None:
    """Return the host of a URL; None where it has none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def is_host(host: str | None) -> bool:
    """Return whether a host is a possible name or address: labels of 1 to 63 characters, 253 in total (RFC 1123)."""
    if not host or any(character.isspace() or character in _NEVER_IN_A_HOST for character in host):
        return False
    if ":" in host:  # an IPv6 address, which urlsplit has checked
        return True
    name = host.removesuffix(".")
    return len(name) <= _MAX_HOST and all(0 < len(label) <= _MAX_LABEL for label in name.split("."))


def base_of(url: str, api_paths: Sequence[str]) -> str:
    """Return the base URL, to which API paths are appended: without API path, trailing slash and fragment.

    A query stays. A URL without a path gets `/v1`, or `/openai/v1` at Azure. A URL that ends in an API path only loses
    that.
    """
    parts = urlsplit(url.strip())
    path = re.sub("/+$", "", parts.path)
    longest_first = sorted(api_paths, key=len, reverse=True)
    api_path = next((name for name in longest_first if path.endswith(f"/{name}")), None)
    if api_path is not None:
        path = path.removesuffix(f"/{api_path}").rstrip("/")
    elif not path:
        path = "/openai/v1" if is_azure(parts.hostname) else "/v1"
    return parts._replace(path=path, fragment="").geturl()


def base_and_model(url: str, api_path: str) -> tuple[str, str | None]:
    """Return the base URL, without trailing slash and fragment, and the model that the URL names at its end, if any.

    `api_path` is the pattern of the path behind the base; its group is the model. A query stays.
    """
    parts = urlsplit(url.strip())
    path = re.sub("/+$", "", parts.path)
    found = re.search(f"(?:{api_path})$", path)
    if found is not None:
        path = path[: found.start()]
    return parts._replace(path=path, fragment="").geturl(), unquote(found[1]) if found else None
