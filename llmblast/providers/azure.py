"""Azure OpenAI: the provider. Requests and replies are OpenAI's; URL, key and deployment are Azure's own.

| URL of an endpoint | requests go to |
|---|---|
| `https://R.openai.azure.com`, `.../openai/v1` | `/openai/v1/chat/completions`; `model` names the deployment |
| `.../openai/deployments/D?api-version=V`, also with `/chat/completions` before the query | that deployment |
| `.../openai?api-version=V`, `https://R.openai.azure.com?api-version=V` | the deployment that `model` names |

Sources: https://learn.microsoft.com/azure/ai-foundry/openai/reference and /api-version-lifecycle
"""

import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs, urlsplit

from llmblast.api_paths import API_PATHS
from llmblast.provider_contract import MODEL_PLACE
from llmblast.providers.openai import OpenAI, azure_auth_header
from llmblast.urls import base_of, host_of, is_azure

_OPENAI = "/openai"
_WITH_DEPLOYMENT = f"/openai/deployments/{MODEL_PLACE}"
_VERSION = "api-version"
_DATED = r"\d{4}-\d\d-\d\d(?:-preview)?"


class Azure:
    """The provider of Azure OpenAI, also behind a gateway that takes its URLs."""

    kind = "azure"
    hosts: Collection[str] = ()
    key_env = "AZURE_OPENAI_API_KEY"
    other_key_env = "OPENAI_API_KEY"
    headers: Mapping[str, str] = {}

    def __init__(self) -> None:
        openai = OpenAI()
        self.dialects: Mapping[str, str] = openai.dialects
        self.unsupported_in = openai.unsupported_in
        self.render = openai.render
        self.read_answer = openai.read_answer
        self.read_error = openai.read_error
        self.named_wait_s = openai.named_wait_s
        self.read_limits = openai.read_limits
        self.flex_member = openai.flex_member
        self.flex_paths = openai.flex_paths

    def base_url(self, url: str) -> str:
        """See `Provider`. In front of API versions with a date stands a deployment, which the URL may leave out."""
        parts = urlsplit(base_of(url, tuple(API_PATHS)))
        version = parse_qs(parts.query).get(_VERSION, [""])[0]
        is_unnamed = parts.path == _OPENAI or not urlsplit(url.strip()).path.strip("/")
        if is_unnamed:
            path = _WITH_DEPLOYMENT if re.fullmatch(_DATED, version) else "/openai/v1"
            parts = parts._replace(path=path)
        return parts.geturl()

    def names_path(self, url: str) -> bool:
        """See `Provider`. Azure has Anthropic's API, too."""
        if not is_azure(host_of(url)):
            return False
        return re.search(r"/anthropic(?:/|$)|/v1/messages/?$", urlsplit(url).path) is None

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        return azure_auth_header(key)
