"""Official clients of Gemini, Vertex AI, Bedrock and Azure OpenAI against the mock: what they read is what was made."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import botocore.config
import botocore.exceptions
import botocore.session
import openai
import pytest
from google import genai
from google.genai import errors, types

from tests.conftest import StartMock

KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FUNCTION = {
    "name": "find_ships",
    "description": "Find ships",
    "parameters": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]},
}


@pytest.fixture
def mock_url(start_mock: StartMock) -> str:
    return start_mock(f"latency=0&key={quote_plus(KEY)}").url.removesuffix("/v1")


@pytest.fixture
def gemini(mock_url: str) -> Iterator[genai.Client]:
    with genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=mock_url)) as client:
        yield client


def bedrock(url: str, secret: str = KEY, token: str | None = None) -> Any:
    session = botocore.session.Session()
    session.set_credentials("AKIAIOSFODNN7EXAMPLE", secret, token)
    config = botocore.config.Config(retries={"max_attempts": 1})
    return session.create_client("bedrock-runtime", region_name="eu-west-1", endpoint_url=url, config=config)


def test_gemini_answers_its_client(gemini: genai.Client) -> None:
    reply = gemini.models.generate_content(
        model="gemini-2.5-flash",
        contents="Count the ships in the fog",
        config=types.GenerateContentConfig(system_instruction="Be brief", temperature=0.5, max_output_tokens=400),
    )

    assert "ships in the fog" in (reply.text or "")
    assert reply.model_version == "gemini-2.5-flash"
    assert reply.candidates is not None
    assert reply.candidates[0].finish_reason is types.FinishReason.STOP
    assert reply.usage_metadata is not None
    assert (reply.usage_metadata.prompt_token_count or 0) > 5


def test_gemini_streams_what_a_whole_reply_says(gemini: genai.Client) -> None:
    """Word by word; the last event has the reason of the end."""
    asked: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "Count the ships in the fog"}
    whole = gemini.models.generate_content(**asked)

    events = list(gemini.models.generate_content_stream(**asked))

    assert len(events) > 5
    assert "".join(event.text or "" for event in events) == whole.text
    assert events[-1].candidates is not None
    assert events[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert events[-1].usage_metadata == whole.usage_metadata


def test_gemini_thinks_calls_and_fills_schemas(gemini: genai.Client) -> None:
    """In the parts and the JSON of its client."""

    def ask(**config: Any) -> types.GenerateContentResponse:
        return gemini.models.generate_content(
            model="m", contents="Ships?", config=types.GenerateContentConfig.model_validate(config)
        )

    thought = ask(thinking_config={"include_thoughts": True}).candidates
    schema = {"type": "OBJECT", "properties": {"name": {"type": "STRING"}}, "required": ["name"]}
    parsed = ask(response_mime_type="application/json", response_schema=schema).parsed
    called = ask(
        tools=[{"function_declarations": [FUNCTION]}],
        tool_config={"function_calling_config": {"mode": "ANY"}},
    ).function_calls

    assert thought is not None
    assert thought[0].content is not None
    assert [part.thought for part in thought[0].content.parts or ()] == [True, None]
    assert isinstance(parsed, dict)
    assert list(parsed) == ["name"]
    assert called is not None
    assert (called[0].name, list(called[0].args or ())) == ("find_ships", ["port"])


def test_gemini_tells_its_client_what_is_wrong(mock_url: str, gemini: genai.Client, start_mock: StartMock) -> None:
    """A wrong key, an unknown name, a limit with its wait."""
    limited = start_mock("latency=0&rps=0.1").url.removesuffix("/v1")
    with (
        genai.Client(api_key="wrong", http_options=types.HttpOptions(base_url=mock_url)) as client,
        pytest.raises(errors.ClientError) as wrong_key,
    ):
        client.models.generate_content(model="m", contents="Hi")
    with pytest.raises(errors.ClientError) as unknown:
        gemini.models.generate_content(
            model="m", contents="Hi", config=types.GenerateContentConfig(stop_sequences=["a"] * 9)
        )
    with genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=limited)) as client:
        client.models.generate_content(model="m", contents="Hi")
        with pytest.raises(errors.ClientError) as too_many:
            client.models.generate_content(model="m", contents="Hi")

    assert (wrong_key.value.code, wrong_key.value.status) == (400, "INVALID_ARGUMENT")
    assert wrong_key.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert (unknown.value.code, unknown.value.status) == (400, "INVALID_ARGUMENT")
    assert (too_many.value.code, too_many.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert [detail["@type"].rpartition(".")[2] for detail in too_many.value.details["error"]["details"]] == [
        "QuotaFailure",
        "RetryInfo",
    ]


def test_vertex_answers_its_client(mock_url: str) -> None:
    """With project, location and a token."""
    from google.oauth2.credentials import Credentials

    options = types.HttpOptions(base_url=mock_url)
    token = Credentials(token=KEY)  # type: ignore[no-untyped-call] # has no annotations
    with genai.Client(vertexai=True, project="p", location="l", credentials=token, http_options=options) as client:
        reply = client.models.generate_content(model="gemini-2.5-flash", contents="Count the ships")

    assert "ships" in (reply.text or "")


@pytest.mark.parametrize("token", [None, "a-session-token/with+signs=="])
def test_bedrock_answers_its_client(mock_url: str, token: str | None) -> None:
    """Whose signature was checked, with a model whose name has to be escaped."""
    client = bedrock(mock_url, token=token)

    reply = client.converse(
        modelId="anthropic.claude-3-5-sonnet-20240620-v1:0",
        messages=[{"role": "user", "content": [{"text": "Count the ships in the fog"}]}],
        system=[{"text": "Be brief"}],
        inferenceConfig={"maxTokens": 300, "temperature": 0.5},
    )
    called = client.converse(
        modelId="arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.m",
        messages=[{"role": "user", "content": [{"text": "Ships?"}]}],
        toolConfig={
            "tools": [{"toolSpec": {"name": "find_ships", "inputSchema": {"json": FUNCTION["parameters"]}}}],
            "toolChoice": {"any": {}},
        },
    )

    assert "ships in the fog" in reply["output"]["message"]["content"][0]["text"]
    assert (reply["stopReason"], called["stopReason"]) == ("end_turn", "tool_use")
    assert reply["usage"]["inputTokens"] > 5
    assert called["output"]["message"]["content"][0]["toolUse"]["name"] == "find_ships"


def test_bedrock_tells_its_client_what_is_wrong(mock_url: str, start_mock: StartMock) -> None:
    """A wrong secret, a request that is not valid, a limit."""
    limited = bedrock(start_mock("latency=0&rps=0.1").url.removesuffix("/v1"))
    hello = [{"role": "user", "content": [{"text": "Hi"}]}]
    with pytest.raises(botocore.exceptions.ClientError) as wrong_key:
        bedrock(mock_url, "another secret").converse(modelId="m", messages=hello)
    with pytest.raises(botocore.exceptions.ClientError) as invalid:
        bedrock(mock_url).converse(modelId="m", messages=[])
    limited.converse(modelId="m", messages=hello)
    with pytest.raises(botocore.exceptions.ClientError) as too_many:
        limited.converse(modelId="m", messages=hello)

    codes = [error.value.response["Error"]["Code"] for error in (wrong_key, invalid, too_many)]
    assert codes == ["UnrecognizedClientException", "ValidationException", "ThrottlingException"]


def test_azure_answers_its_client(mock_url: str) -> None:
    """By deployment and at its `/openai/v1`."""
    messages: Any = [{"role": "user", "content": "Count the ships in the fog"}]
    with openai.AzureOpenAI(azure_endpoint=mock_url, api_key=KEY, api_version="2024-10-21") as client:
        by_deployment = client.chat.completions.create(model="my-deployment", messages=messages)
    with openai.OpenAI(base_url=f"{mock_url}/openai/v1", api_key=KEY) as client:
        by_body = client.chat.completions.create(model="my-deployment", messages=messages)
    with (
        openai.AzureOpenAI(azure_endpoint=mock_url, api_key="no", api_version="2024-10-21", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as wrong_key,
    ):
        client.chat.completions.create(model="my-deployment", messages=messages)

    assert (by_deployment.model, by_body.model) == ("my-deployment", "my-deployment")
    assert by_deployment.choices[0].message.content == by_body.choices[0].message.content
    assert wrong_key.value.code == "401"
