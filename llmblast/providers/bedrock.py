"""Amazon Bedrock's Converse API: the provider. `bedrock_converse` renders prompts and reads replies.

Requests carry the bearer token of `AWS_BEARER_TOKEN_BEDROCK`, else a signature by `aws_signing`.
Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html
"""

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import MODEL_PLACE, Signer
from llmblast.providers.on_demand import named_wait_s
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.urls import base_and_model, host_of

if TYPE_CHECKING:
    from llmblast.providers.bedrock_converse import Converse

DIALECT = "bedrock.converse"
_PATH = f"model/{MODEL_PLACE}/converse"
_IN_URL = r"/model/([^/]+)/(?:converse|converse-stream|invoke|invoke-with-response-stream)"
_HOST = r"(?:[\w.-]+\.)?bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)"


class Bedrock:
    """The provider of the Converse API."""

    kind = "bedrock"
    dialects: Mapping[str, str] = {DIALECT: _PATH}
    hosts: Collection[str] = ()
    key_env = "AWS_BEARER_TOKEN_BEDROCK"
    headers: Mapping[str, str] = {}
    body_prefix = b""
    flex_member = b'"serviceTier":{"type":"flex"}'
    flex_paths = ("/converse",)
    named_wait_s = staticmethod(named_wait_s)
    read_limits = staticmethod(read_rate_limits)

    @cached_property
    def _converse(self) -> "Converse":
        """Load the rest at the first prompt: every start knows all providers, and most runs use one."""
        from llmblast.providers.bedrock_converse import Converse  # noqa: PLC0415 -- see above

        return Converse()

    def base_url(self, url: str) -> str:
        return base_and_model(url, _IN_URL)[0]

    def names_path(self, url: str) -> bool:
        path = urlsplit(url).path.rstrip("/")
        is_bare = not path and re.fullmatch(_HOST, host_of(url) or "") is not None
        return is_bare or ("/model/" in path and re.search(f"{_IN_URL}$", path) is not None)

    def model_in(self, url: str) -> str | None:
        return base_and_model(url, _IN_URL)[1]

    def path_for(self, path: str, model: str) -> str:
        """See `PathProvider`. ARNs have slashes, and most models a colon: both are escaped, as AWS's clients do."""
        return path.replace(MODEL_PLACE, quote(model, safe=""))

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        return "Authorization", f"Bearer {key}"

    def new_signer(self, name: str, url: str, environ: Mapping[str, str]) -> Signer:
        from llmblast.providers.aws_signing import AwsSigner  # noqa: PLC0415 -- needs the extra `aws`

        found = re.fullmatch(_HOST, host_of(url) or "")
        return AwsSigner(name, found[1] if found else None, environ)

    def unsupported_in(self, prompt: Prompt) -> str | None:
        return self._converse.unsupported_in(prompt)

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        return _PATH, self._converse.render(prompt)

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        return self._converse.read_answer(reply)

    def read_error(self, reply: Reply) -> ReplyError:
        from llmblast.providers.bedrock_errors import read_aws_error  # noqa: PLC0415 -- at the first error

        return read_aws_error(reply)
