"""The Messages API of the mock, with the official client: what it shows is what a real provider would have made."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from llmblast.mocking.server import MockServer, ScriptedReply
from tests.conftest import StartMock

ASKED: Any = [{"role": "user", "content": "Count the ships in the fog"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOL: Any = {
    "name": "launch",
    "description": "Launches a ship",
    "input_schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}


def connect(server: MockServer, key: str = "sk-ant-test") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url.removesuffix("/v1"), api_key=key, max_retries=0, timeout=30)


@pytest.fixture
def client(start_mock: StartMock) -> Iterator[anthropic.Anthropic]:
    with connect(start_mock()) as client:
        yield client


def said(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_chat_is_answered(client: anthropic.Anthropic) -> None:
    """With its model, usage, stop reason and the id of the request."""
    message = client.messages.create(model="claude", max_tokens=500, messages=ASKED)

    assert "ships in the fog" in said(message)
    assert (message.model, message.role, message.stop_reason) == ("claude", "assistant", "end_turn")
    assert message.usage.input_tokens == 6
    assert message.usage.output_tokens == len(said(message).split())
    assert (message._request_id or "").startswith("req_")


def test_max_tokens_cut_an_answer_off(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="claude", max_tokens=3, messages=ASKED)

    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


def test_a_system_prompt_and_images_count(client: anthropic.Anthropic) -> None:
    """A text of 400 letters and two pictures, one as data and one as a URL."""
    sources: Any = [
        {"type": "base64", "media_type": "image/png", "data": PIXEL},
        {"type": "url", "url": "https://example.com/a.png"},
    ]
    content: Any = [*({"type": "image", "source": source} for source in sources), {"type": "text", "text": "compare"}]

    message = client.messages.create(
        model="claude", max_tokens=500, system="s" * 400, messages=[{"role": "user", "content": content}]
    )

    assert "compare" in said(message)
    assert message.usage.input_tokens == 101 + 2 * 1398


def test_a_stop_sequence_ends_an_answer(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="claude", max_tokens=500, messages=ASKED, stop_sequences=["ships"])

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "ships")
    assert "ships" not in said(message)


def test_a_stream_is_the_same_answer(client: anthropic.Anthropic) -> None:
    """Put together by the client's helper."""
    whole = client.messages.create(model="claude", max_tokens=500, messages=ASKED)

    with client.messages.stream(model="claude", max_tokens=500, messages=ASKED) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()

    assert len(texts) > 1
    assert said(streamed) == said(whole) == "".join(texts)
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_is_used_and_its_result_answered(client: anthropic.Anthropic, is_streamed: bool) -> None:
    """A whole round: the demanded use, its result, the answer in words."""
    asked: Any = {"model": "claude", "max_tokens": 500, "tools": [TOOL]}
    if is_streamed:
        with client.messages.stream(messages=ASKED, tool_choice={"type": "any"}, **asked) as stream:
            used = stream.get_final_message()
    else:
        used = client.messages.create(messages=ASKED, tool_choice={"type": "any"}, **asked)
    (block,) = used.content
    assert block.type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "The ship was launched"}
    history: Any = [*ASKED, {"role": "assistant", "content": used.content}, {"role": "user", "content": [result]}]

    answer = client.messages.create(messages=history, **asked)

    assert used.stop_reason == "tool_use"
    assert isinstance(block.input, dict)
    assert isinstance(block.input["name"], str)
    assert "launched" in said(answer)


def test_a_key_is_wanted(start_mock: StartMock) -> None:
    """In `x-api-key`, or as a bearer token, as the client sends it since its version 2."""
    server = start_mock("latency=0&key=sk-ant-right")
    own: Any = {"x-api-key": "sk-ant-right", "Authorization": anthropic.omit}
    with connect(server, "sk-ant-right") as right, connect(server, "sk-ant-wrong") as wrong:
        assert right.messages.create(model="claude", max_tokens=5, messages=ASKED).content
        assert wrong.messages.create(model="claude", max_tokens=5, messages=ASKED, extra_headers=own).content
        with pytest.raises(anthropic.AuthenticationError) as caught:
            wrong.messages.create(model="claude", max_tokens=5, messages=ASKED)

    assert caught.value.type == "authentication_error"


def test_a_rate_limit_is_told_in_its_headers_and_its_error(start_mock: StartMock) -> None:
    """With the client's own classes."""
    server = start_mock("latency=0&rpm=1&headers=anthropic&policy=token-bucket")
    with connect(server) as client:
        first = client.messages.with_raw_response.create(model="claude", max_tokens=5, messages=ASKED)
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(model="claude", max_tokens=5, messages=ASKED)

    assert first.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert first.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert caught.value.type == "rate_limit_error"
    assert float(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("rule", "error", "kind"),
    [
        ("529", anthropic.APIStatusError, "overloaded_error"),
        ("500", anthropic.InternalServerError, "api_error"),
        ("400", anthropic.BadRequestError, "invalid_request_error"),
        ("404", anthropic.NotFoundError, "not_found_error"),
    ],
)
def test_faults_have_its_form(
    start_mock: StartMock, tmp_path: Path, rule: str, error: type[anthropic.APIStatusError], kind: str
) -> None:
    (tmp_path / "faults.toml").write_text(f'[[fault]]\nkind = "{rule}"\n')
    server = start_mock(f"latency=0&faults={tmp_path / 'faults.toml'}")
    with connect(server) as client, pytest.raises(error) as caught:
        client.messages.create(model="claude", max_tokens=5, messages=ASKED)

    assert (caught.value.status_code, caught.value.type) == (int(rule), kind)


@pytest.mark.parametrize(
    "asked",
    [
        {"max_tokens": 0},
        {"messages": []},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"temperature": 3},
        {"extra_body": {"n": 2}},
    ],
    ids=str,
)
def test_what_the_api_does_not_know_is_refused(client: anthropic.Anthropic, asked: Any) -> None:
    """With a 400 in its form, so that no request is answered as if it had not asked."""
    whole: Any = {"model": "claude", "max_tokens": 5, "messages": ASKED, **asked}
    extra = whole.pop("extra_body", None) or {name: whole.pop(name) for name in ("temperature",) if name in whole}
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**whole, extra_body=extra)

    assert caught.value.type == "invalid_request_error"


def test_both_apis_are_on_one_port(start_mock: StartMock) -> None:
    """A script's reply stays as it was written."""
    reply = ScriptedReply(status=500, body=b'{"error":{"message":"as it is"}}')
    server = start_mock(script=lambda number, body: reply)
    with connect(server) as client, pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(model="claude", max_tokens=5, messages=ASKED)

    assert caught.value.body == {"error": {"message": "as it is"}}


def test_an_answer_fits_the_schema_that_is_asked_for(client: anthropic.Anthropic) -> None:
    """In the form that the API has for it; another form is refused."""
    schema = {**TOOL["input_schema"], "additionalProperties": False}
    wanted: Any = {"format": {"type": "json_schema", "schema": schema}}

    message = client.messages.create(model="claude", max_tokens=500, messages=ASKED, output_config=wanted)

    assert list(json.loads(said(message))) == ["name"]
    wrong: Any = {"format": {"type": "text"}}
    with pytest.raises(anthropic.BadRequestError, match="output_config"):
        client.messages.create(model="claude", max_tokens=9, messages=ASKED, output_config=wrong)
