"""OpenAI's Responses API: the provider. `responses_requests` renders prompts, `passed_through` reads replies.

Simple lines are written for `/v1/responses`; raw bodies go to their own paths, as servers with this API have the rest
of OpenAI's, too. Source: https://platform.openai.com/docs/api-reference/responses
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.providers.on_demand import named_wait_s, read_error
from llmblast.providers.openai import RESPONSES, OpenAI, path_of, read_reply
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.urls import host_of, is_azure

if TYPE_CHECKING:
    from llmblast.providers.responses_requests import ResponsesRequests


class OpenAIResponses:
    """The provider of the Responses API, of OpenAI and of servers such as vLLM and LiteLLM."""

    kind = "openai-responses"
    hosts: Collection[str] = ()
    key_env = "OPENAI_API_KEY"
    headers: Mapping[str, str] = {}
    read_error = staticmethod(read_error)
    named_wait_s = staticmethod(named_wait_s)
    read_limits = staticmethod(read_rate_limits)

    def __init__(self) -> None:
        openai = OpenAI()
        self.dialects = openai.dialects
        self.base_url = openai.base_url
        self.auth_header = openai.auth_header
        self.flex_member = openai.flex_member
        self.flex_paths = openai.flex_paths

    @cached_property
    def _requests(self) -> "ResponsesRequests":
        """Load the rest at the first prompt: every start knows all providers, and most runs use one."""
        from llmblast.providers.responses_requests import ResponsesRequests  # noqa: PLC0415 -- see above

        return ResponsesRequests()

    def names_path(self, url: str) -> bool:
        return url.partition("?")[0].rstrip("/").endswith(f"/{RESPONSES}") and not is_azure(host_of(url))

    def unsupported_in(self, prompt: Prompt) -> str | None:
        return self._requests.unsupported_in(prompt)

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        return RESPONSES, self._requests.render(prompt)

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        return read_reply(request, reply, path_of(request, self.kind, RESPONSES))
