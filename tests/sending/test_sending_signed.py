"""Headers that depend on the body, and URLs that name the model, on both transports."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.models import Attempt, RawBody, Request
from llmblast.provider_contract import MODEL_PLACE
from llmblast.providers.openai import OpenAI
from llmblast.sending import TRANSPORTS, Target, make_target
from tests.sending.sending_wire import Serve, a_reply, says

PATH = f"models/{MODEL_PLACE}:answer"


class Signing:
    """A signer that shows what it was asked to sign."""

    secrets: Sequence[str] = ("a-secret",)

    def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        return {"x-signed": f"{url.rpartition('/')[2]} {len(body)}"}

    def on_renewal(self, hide: Callable[[Sequence[str]], None]) -> None: ...


class Cloud:
    """The OpenAI provider with the model in its paths, and signed."""

    kind = "cloud"
    body_prefix = b'{"version":1,'

    def __init__(self) -> None:
        inner = OpenAI()
        self.dialects: Mapping[str, str] = {"cloud.answer": PATH}
        self.hosts, self.headers, self.key_env = inner.hosts, inner.headers, inner.key_env
        self.base_url, self.names_path, self.auth_header = inner.base_url, inner.names_path, inner.auth_header
        self.unsupported_in, self.render, self.read_answer = inner.unsupported_in, inner.render, inner.read_answer
        self.read_error, self.named_wait_s, self.read_limits = inner.read_error, inner.named_wait_s, inner.read_limits

    def path_for(self, path: str, model: str) -> str:
        return path.replace(MODEL_PLACE, model.replace(":", "%3A"))

    def model_in(self, url: str) -> str | None:
        return None

    def new_signer(self, name: str, url: str, environ: Mapping[str, str]) -> Signing:
        return Signing()


def cloud_target(url: str, key: str | None = None, model: str | None = "m:0") -> Target:
    return make_target(EndpointSettings(url=url, name="c"), model, key, Cloud())


def a_request(model: str | None = None) -> Attempt:
    body = b'{"messages":[]}'
    request = Request(
        1, "k", body, 1, path=PATH, body=body, kind="other", content=RawBody("cloud.answer"), needs_model=model is None,
        model=model,
    )  # fmt: skip
    return Attempt(request)


async def test_each_request_is_signed_with_its_url_and_body(
    serve: Serve, stack: AsyncExitStack, transport: str
) -> None:
    """The URL is sent as it was signed: not another escape differs."""
    server = await serve(says(a_reply()))
    channel = TRANSPORTS[transport](cloud_target(server.url), 30.0, 10.0)
    stack.push_async_callback(channel.close)

    await channel.send(a_request())
    await channel.send(a_request("mine"))

    first, second = server.received
    assert (first.line, first.body) == (
        "POST /v1/models/m%3A0:answer HTTP/1.1",
        b'{"version":1,"messages":[]}',
    )
    assert first.headers["x-signed"] == f"m%3A0:answer {len(first.body)}"
    assert (second.line, second.body) == ("POST /v1/models/mine:answer HTTP/1.1", b'{"messages":[]}')
    assert second.headers["x-signed"] == f"mine:answer {len(second.body)}"


async def test_with_a_key_nothing_is_signed(serve: Serve, stack: AsyncExitStack, transport: str) -> None:
    server = await serve(says(a_reply()))
    channel = TRANSPORTS[transport](cloud_target(server.url, "sk-a-key-of-mine"), 30.0, 10.0)
    stack.push_async_callback(channel.close)

    await channel.send(a_request())

    assert "x-signed" not in server.received[0].headers
    assert server.received[0].headers["Authorization"] == "Bearer sk-a-key-of-mine"


def test_a_missing_model_is_found_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match=r"endpoint c: the model is missing, .* add model=NAME, or --model NAME"):
        cloud_target("http://127.0.0.1:1/v1", model=None)
