"""The Converse API: what is sent for a prompt, what is read in a reply, errors, URLs and signatures."""

import sys
import threading
from collections.abc import Sequence
from typing import Any

import botocore.session
import orjson
import pytest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.validate import ParamValidator

from llmblast import sending
from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.job.redacting_channel import RedactingChannel
from llmblast.models import Answer, Attempt, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import UnsupportedError
from llmblast.providers import aws_signing
from llmblast.providers.aws_signing import AwsSigner
from llmblast.providers.bedrock import Bedrock
from llmblast.sending import Action, Blame, Verdict
from tests.media_parts import parts_of

PROVIDER = Bedrock()
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
URL = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/m%3A0/converse"
REPLY: dict[str, Any] = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Blue."}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 10, "cacheReadInputTokens": 20, "outputTokens": 4, "totalTokens": 34},
    "metrics": {"latencyMs": 300},
}


def body_of(text: str = "Why?", system: str | None = None, images: Sequence[str] = (), **params: object) -> Any:
    """Return the body, which botocore's model of the service finds valid."""
    path, body = PROVIDER.render(Prompt(text, system, parts_of(images), params))
    assert path == "model/{model}/converse"
    loaded = orjson.loads(body)
    shape = botocore.session.Session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape
    report = ParamValidator().validate({"modelId": "m", **loaded}, shape)
    assert not report.has_errors(), report.generate_report()
    return loaded


def read(**changed: object) -> Answer | ReplyError:
    return PROVIDER.read_answer(Request(1, "k", b"", 1), Reply(200, body=orjson.dumps({**REPLY, **changed})))


def read_blocks(*blocks: object, **changed: object) -> Answer | ReplyError:
    return read(output={"message": {"content": list(blocks)}}, **changed)


def test_a_prompt_becomes_a_message() -> None:
    assert body_of() == {"messages": [{"role": "user", "content": [{"text": "Why?"}]}]}
    assert body_of(system="Be brief.")["system"] == [{"text": "Be brief."}]
    assert "system" not in body_of(system="")


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        (
            {"max_tokens": 7, "temperature": 0.5, "top_p": 1.0, "stop": "END"},
            {"inferenceConfig": {"maxTokens": 7, "temperature": 0.5, "topP": 1.0, "stopSequences": ["END"]}},
        ),
        ({"max_completion_tokens": 7}, {"inferenceConfig": {"maxTokens": 7}}),
        ({"inferenceConfig": {"maxTokens": 3}}, {"inferenceConfig": {"maxTokens": 3}}),
        ({"top_k": 5}, {"additionalModelRequestFields": {"top_k": 5}}),
        (
            {"top_k": 5, "additionalModelRequestFields": {"thinking": {"type": "enabled"}}},
            {"additionalModelRequestFields": {"top_k": 5, "thinking": {"type": "enabled"}}},
        ),
        ({"metadata": {"team": "search"}}, {"requestMetadata": {"team": "search"}}),
        ({"stop": None, "n": 1, "stream": False, "seed": None, "user": "u", "logprobs": False}, {}),
        ({"performanceConfig": {"latency": "optimized"}}, {"performanceConfig": {"latency": "optimized"}}),
    ],
    ids=str,
)
def test_parameters_have_the_names_of_the_api(params: dict[str, Any], sent: dict[str, Any]) -> None:
    """What is the model's own goes where the API passes it on."""
    body = body_of(**params)
    del body["messages"]

    assert body == sent


def test_tools_and_schemas_have_the_form_of_the_api() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    spec = {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}

    named = body_of(tools=tools, tool_choice={"type": "function", "function": {"name": "f"}})["toolConfig"]
    needed = body_of(tools=tools, tool_choice="required")["toolConfig"]
    text_format = body_of(response_format=schema)["outputConfig"]["textFormat"]

    assert named == {"tools": [spec], "toolChoice": {"tool": {"name": "f"}}}
    assert needed == {"tools": [spec], "toolChoice": {"any": {}}}
    assert "toolConfig" not in body_of(tools=tools, tool_choice="none")
    assert text_format["structure"]["jsonSchema"] == {"schema": '{"type":"object"}', "name": "a"}


def test_files_come_before_the_text() -> None:
    (message,) = body_of(images=["data:image/png;base64,AAAA", "data:application/pdf;base64,AAAA"])["messages"]

    assert message["content"] == [
        {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
        {"document": {"format": "pdf", "name": "document 2", "source": {"bytes": "AAAA"}}},
        {"text": "Why?"},
    ]


@pytest.mark.parametrize(
    ("images", "params", "words"),
    [
        ((), {"seed": 2}, 'no parameter like "seed"'),
        ((), {"response_format": {"type": "json_object"}}, "with a json_schema only"),
        (("https://h/a.png",), {}, "takes no URLs"),
        (("data:image/svg+xml;base64,AAAA",), {}, r"takes no image/svg\+xml: convert it"),
    ],
)
def test_what_the_api_has_no_words_for_is_named(images: tuple[str, ...], params: dict[str, object], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        PROVIDER.render(Prompt("Why?", None, parts_of(images), params))


def test_an_answer_has_its_text_and_usage() -> None:
    answer = read()

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.says_more) == ("Blue.", "stop", False)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.usage) == (30, 4, REPLY["usage"])


@pytest.mark.parametrize(
    ("blocks", "native", "text", "reason", "says_more"),
    [
        ([{"text": "Blu"}], "max_tokens", "Blu", "length", False),
        ([{"text": "A"}, {"toolUse": {"name": "f"}}], "tool_use", "A", "tool_calls", True),
        ([{"reasoningContent": {"reasoningText": {"text": "Hm"}}}, {"text": "A"}], "end_turn", "A", "stop", True),
        ([{"text": "Sorry"}], "guardrail_intervened", "Sorry", "content_filter", False),
        ([], "content_filtered", None, "content_filter", False),
        ([], "end_turn", "", "stop", False),
    ],
)
def test_answers_that_are_no_plain_texts(
    blocks: list[object], native: str, text: str | None, reason: str, says_more: bool
) -> None:
    answer = read_blocks(*blocks, stopReason=native)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.says_more) == (text, reason, says_more)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"stopReason": "malformed_tool_use"}, "generation_failed"),
        ({"output": {"message": {"content": []}}, "usage": {"inputTokens": 4, "outputTokens": 0}}, "empty_answer"),
        ({"output": None}, "unusable_reply"),
    ],
)
def test_replies_without_an_answer_are_errors(changed: dict[str, object], code: str) -> None:
    error = read(**changed)

    assert isinstance(error, ReplyError)
    assert error.code == code


@pytest.mark.parametrize(
    ("status", "name", "action", "blame"),
    [
        (429, "ThrottlingException", Action.PUSH_BACK, Blame.UNKNOWN),
        (400, "ServiceQuotaExceededException", Action.PUSH_BACK, Blame.UNKNOWN),
        (429, "ModelNotReadyException", Action.PUSH_BACK, Blame.UNKNOWN),
        (408, "ModelTimeoutException", Action.RETRY, Blame.UNKNOWN),
        (424, "ModelErrorException", Action.RETRY, Blame.UNKNOWN),
        (500, "InternalServerException", Action.RETRY, Blame.UNKNOWN),
        (503, "ServiceUnavailableException", Action.RETRY, Blame.UNKNOWN),
        (403, "UnrecognizedClientException", Action.REFUSED, Blame.ENDPOINT),
        (403, "ExpiredTokenException", Action.REFUSED, Blame.ENDPOINT),
        (400, "ValidationException", Action.REFUSED, Blame.UNKNOWN),
        (404, "ResourceNotFoundException", Action.REFUSED, Blame.UNKNOWN),
    ],
)
def test_errors_have_the_name_in_the_header(status: int, name: str, action: Action, blame: Blame) -> None:
    headers = {b"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/".encode()}
    reply = Reply(status, headers, b'{"message":"no ships"}')

    verdict = sending.judge(Attempt(Request(1, "k", b"", 1)), reply, 1.8e9, PROVIDER)

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.code, verdict.blame) == (action, name, blame)
    assert verdict.message == f"HTTP {status}: no ships"


@pytest.mark.parametrize(
    ("url", "is_ours", "base", "model"),
    [
        (
            "https://bedrock-runtime.us-east-1.amazonaws.com",
            True,
            "https://bedrock-runtime.us-east-1.amazonaws.com",
            None,
        ),
        ("https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1", False, None, None),
        (
            "https://vpce-1-2.bedrock-runtime.eu-west-1.vpce.amazonaws.com/",
            True,
            "https://vpce-1-2.bedrock-runtime.eu-west-1.vpce.amazonaws.com",
            None,
        ),
        ("https://gw.example/aws/model/m%3A0/converse", True, "https://gw.example/aws", "m:0"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com.evil.example", False, None, None),
    ],
)
def test_urls(url: str, is_ours: bool, base: str | None, model: str | None) -> None:
    assert PROVIDER.names_path(url) is is_ours
    if base is not None:
        assert (PROVIDER.base_url(url), PROVIDER.model_in(url)) == (base, model)


class Chain:
    """Credentials that change when they are asked for; `gate` holds an answer back."""

    def __init__(self, *credentials: ReadOnlyCredentials) -> None:
        self._credentials = list(credentials)
        self.gate = threading.Event()
        self.gate.set()

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        self.gate.wait()
        return self._credentials.pop(0) if len(self._credentials) > 1 else self._credentials[0]


class Session:
    def __init__(self, chain: Any, region: str | None = None) -> None:
        self._chain, self._region = chain, region

    def get_credentials(self) -> Any:
        return self._chain

    def get_config_variable(self, name: str) -> str | None:
        return self._region


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_signer(chain: Any, clock: Clock | None = None, region: str | None = "eu-west-1") -> AwsSigner:
    return AwsSigner("aws", region, {}, clock or Clock(), Session(chain))


def test_a_signature_covers_host_time_body_and_token() -> None:
    signer = a_signer(Credentials("AKIAIOSFODNN7EXAMPLE", SECRET, "the-session-token"))

    headers = signer.sign(URL, b"{}")
    other = signer.sign(URL, b"{ }")

    assert "/eu-west-1/bedrock/aws4_request" in headers["Authorization"]
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token," in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "the-session-token"
    assert headers["Authorization"].rpartition("=")[2] != other["Authorization"].rpartition("=")[2]
    assert set(signer.secrets) == {SECRET, "the-session-token"}


def test_credentials_are_renewed_aside_and_hidden_before_they_are_used() -> None:
    """A request does not wait for the chain, which may ask a server."""
    first, second = (
        ReadOnlyCredentials("A1", "secret-number-1", "t1-token"),
        ReadOnlyCredentials("A2", "s2-secret", "t2"),
    )
    chain, clock, hidden = Chain(first, second), Clock(), list[str]()
    signer = a_signer(chain, clock)
    signer.on_renewal(hidden.extend)

    chain.gate.clear()
    clock.now_s = aws_signing.RECHECK_S + 1
    during = signer.sign(URL, b"{}")
    chain.gate.set()
    for thread in threading.enumerate():
        if thread.name == "llmblast-credentials":
            thread.join()
    after = signer.sign(URL, b"{}")

    assert "Credential=A1/" in during["Authorization"]
    assert "Credential=A2/" in after["Authorization"]
    assert hidden == ["s2-secret", "t2"]


def test_after_a_long_sleep_a_request_waits_for_new_credentials() -> None:
    """The old ones have expired meanwhile."""
    chain, clock = Chain(ReadOnlyCredentials("A1", "s1", None), ReadOnlyCredentials("A2", "s2", None)), Clock()
    signer = a_signer(chain, clock)

    clock.now_s = aws_signing.MAX_UNCHECKED_S + 1

    assert "Credential=A2/" in signer.sign(URL, b"{}")["Authorization"]


def test_renewed_secrets_are_hidden_in_replies() -> None:
    endpoint = EndpointSettings(url="http://127.0.0.1:1", name="e")
    target = sending.make_target(endpoint, "m", "k" * 20, PROVIDER)
    channel = RedactingChannel(sending.TRANSPORTS["lean"](target, 1.0, 1.0), [b"the-first-secret"])

    channel.hide(["a-renewed/secret+1", "and-its-token"])

    assert set(channel.secrets) == {b"the-first-secret", b"a-renewed/secret+1", b"and-its-token"}


@pytest.mark.parametrize(
    ("chain", "region", "words"),
    [
        (None, "eu-west-1", "endpoint aws: no AWS credentials: export AWS_BEARER_TOKEN_BEDROCK"),
        (Credentials("A", "s"), None, "endpoint aws: no AWS region: export AWS_REGION"),
    ],
)
def test_what_a_signature_needs_is_named(chain: Any, region: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        a_signer(chain, region=region)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)

    with pytest.raises(UsageError, match=r"pip install 'llmblast\[aws\]'"):
        a_signer(Credentials("A", "s"))
