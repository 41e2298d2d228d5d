"""Clients that others wrote, against the mock as a process: what they show is what a real provider would have made."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest
from pydantic import BaseModel

from tests.conftest import StartMock

MESSAGES: Any = [{"role": "user", "content": "Count the ships in the fog"}]


class Ship(BaseModel):
    name: str
    crew: int
    ports: list[str]
    tug: "Ship | None"


def connect(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="sk-test", max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The base URL of `llmblast mock` as a process."""
    command = [sys.executable, "-m", "llmblast", "mock", "--port", "0", "--latency", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("listening on ").strip()
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with connect(url) as client:
        yield client


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    """With its model, usage and the id of the request."""
    reply = client.chat.completions.create(model="m", messages=MESSAGES)

    assert "ships in the fog" in (reply.choices[0].message.content or "")
    assert reply.model == "m"
    assert reply.usage is not None
    assert reply.usage.total_tokens > 6
    assert (reply._request_id or "").startswith("req_")


def test_a_stream_says_what_a_whole_reply_says(client: openai.OpenAI) -> None:
    """As plain events, by the client's helper, and with the raw response before it."""
    whole = client.chat.completions.create(model="m", messages=MESSAGES)
    content = whole.choices[0].message.content

    events = list(
        client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        helped = stream.get_final_completion()
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)

    def text(chunks: Any) -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert text(events) == helped.choices[0].message.content == text(raw.parse()) == content
    assert events[-1].usage == whole.usage
    assert (helped.choices[0].finish_reason, raw.headers["content-type"].partition(";")[0]) == (
        "stop",
        "text/event-stream",
    )


async def test_the_asynchronous_client_streams_too(url: str) -> None:
    """Over its own transport."""
    async with openai.AsyncOpenAI(base_url=url, api_key="sk-test", max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True, n=2)
        indices = {chunk.choices[0].index async for chunk in stream}

    assert indices == {0, 1}


def test_completions_are_answered_and_streamed(client: openai.OpenAI) -> None:
    """One choice for each prompt of token ids."""
    reply = client.completions.create(model="m", prompt=[[1, 2], [3]], logprobs=1, echo=True)
    chunks = list(client.completions.create(model="m", prompt="ships", stream=True))

    assert [choice.text[:1] for choice in reply.choices] == ["1", "3"]
    assert "ships" in "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_embeddings_come_in_both_encodings(client: openai.OpenAI) -> None:
    """The client asks for packed ones unless it is told otherwise."""
    packed = client.embeddings.create(model="m", input=["ships", "birds"], dimensions=16)
    plain = client.embeddings.create(model="m", input=["ships", "birds"], dimensions=16, encoding_format="float")

    assert len(packed.data) == 2
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-4)


def test_structured_outputs_are_parsed(client: openai.OpenAI) -> None:
    """Read whole and streamed, by the client's own reading of the model."""
    whole = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Ship)
    with client.chat.completions.stream(model="m", messages=MESSAGES, response_format=Ship) as stream:
        streamed = stream.get_final_completion()

    assert isinstance(whole.choices[0].message.parsed, Ship)
    assert streamed.choices[0].message.parsed == whole.choices[0].message.parsed


def test_tools_are_called_and_their_results_are_answered(client: openai.OpenAI) -> None:
    """A whole round: the demanded call, its result, the answer in words."""
    tools: Any = [openai.pydantic_function_tool(Ship, name="launch")]
    called = client.chat.completions.parse(model="m", messages=MESSAGES, tools=tools, tool_choice="required")
    message = called.choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "The ship was launched"}
    history: Any = [*MESSAGES, message, result]

    answer = client.chat.completions.create(model="m", messages=history, tools=tools)

    assert isinstance(call.function.parsed_arguments, Ship)
    assert called.choices[0].finish_reason == "tool_calls"
    assert "launched" in (answer.choices[0].message.content or "")


def test_a_streamed_call_is_put_together(client: openai.OpenAI) -> None:
    """By the client's helper."""
    tools: Any = [openai.pydantic_function_tool(Ship, name="launch")]
    named: Any = {"type": "function", "function": {"name": "launch"}}

    with client.chat.completions.stream(model="m", messages=MESSAGES, tools=tools, tool_choice=named) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls

    assert calls
    assert isinstance(calls[0].function.parsed_arguments, Ship)


def test_several_choices_with_log_probabilities(client: openai.OpenAI) -> None:
    """As the client's types have them."""
    reply = client.chat.completions.create(model="m", messages=MESSAGES, n=3, logprobs=True, top_logprobs=2)

    assert len({choice.message.content for choice in reply.choices}) == 3
    for choice in reply.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


def test_models_are_listed_and_looked_up(client: openai.OpenAI) -> None:
    """By the names that the mock has."""
    assert [model.id for model in client.models.list()] == ["mock"]
    assert client.models.retrieve("org/model").id == "org/model"


@pytest.mark.parametrize(
    ("asked", "param"),
    [({"temperature": 3}, "temperature"), ({"extra_body": {"top_k": 5}}, "top_k"), ({"messages": "x"}, "messages")],
)
def test_a_wrong_request_is_a_bad_request(client: openai.OpenAI, asked: dict[str, Any], param: str) -> None:
    """Streamed or not; the parameter is named."""
    for is_streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "m", "messages": MESSAGES, "stream": is_streamed, **asked})

        assert caught.value.param == param


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("key=other", openai.AuthenticationError),
        ("models=large", openai.NotFoundError),
        ("errors=1", openai.InternalServerError),
        ("rate_limited=1&retry_after=1.5", openai.RateLimitError),
        ("broken=1", openai.APIConnectionError),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_error_is_the_clients_own_kind_of_it(
    start_mock: StartMock, query: str, wanted: type[openai.APIError], is_streamed: bool
) -> None:
    """Each status has its exception, and a stream does not end in silence."""
    server = start_mock(f"latency=0&{query}")
    with connect(server.url) as client, pytest.raises(wanted) as caught:
        client.chat.completions.create(model="m", messages=MESSAGES, stream=is_streamed)

    if isinstance(caught.value, openai.RateLimitError):
        headers = caught.value.response.headers
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1500")


def test_the_client_waits_as_long_as_it_is_told_and_succeeds(start_mock: StartMock) -> None:
    """Its own retries, by `retry-after-ms`."""
    server = start_mock("latency=0&rps=20&policy=leaky")
    with connect(server.url).with_options(max_retries=8) as client:
        replies = [client.chat.completions.create(model="m", messages=MESSAGES) for _ in range(4)]

    assert all(reply.choices[0].message.content for reply in replies)
    assert server.rejected


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_curl_streams_a_chat(url: str) -> None:
    """The events as they go over the wire."""
    body = orjson.dumps({"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 3}).decode()
    command = [
        "curl",
        "-sSN",
        "-i",
        "--max-time",
        "30",
        f"{url}/chat/completions",
        "-H",
        "Content-Type: application/json",
    ]

    shown = subprocess.run([*command, "-d", body], capture_output=True, text=True, check=True).stdout

    assert shown.startswith("HTTP/1.1 200 OK\n")
    assert re.search(r"(?i)^content-type: text/event-stream", shown, re.MULTILINE)
    assert len(re.findall(r"(?m)^data: \{", shown)) == 5
    assert shown.endswith("data: [DONE]\n\n")
