"""Chat messages: which are accepted, what they count, and which are rejected at their place."""

from typing import Any

import pytest

from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.messages import read_messages

USER = {"role": "user", "content": "Count the ships"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "count", "arguments": "{}"}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def parts(*content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "function"])
def test_every_role_may_speak(role: str) -> None:
    """The last message is the one that is answered."""
    assert read_messages([USER, {"role": role, "content": "Name birds", "name": "x"}]) == ("Name birds", 6)


def test_the_result_of_a_call_belongs_to_a_call() -> None:
    """The call's name and arguments count as tokens, too."""
    text, tokens = read_messages([USER, ASSISTANT, {"role": "tool", "tool_call_id": "call_1", "content": "12 ships"}])

    assert (text, tokens) == ("12 ships", (15 + 8) // 4 + 7 // 4)


@pytest.mark.parametrize(("detail", "tokens"), [(None, 765), ("auto", 765), ("high", 765), ("low", 85)])
def test_an_image_counts_by_its_detail(detail: str | None, tokens: int) -> None:
    """Beside the text."""
    image = {**IMAGE, "image_url": {"url": "https://example.com/a.png", "detail": detail}}

    assert read_messages(parts({"type": "text", "text": "What is it?"}, image)) == ("What is it?", 2 + tokens)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    ],
)
def test_sounds_and_files_count_the_same(part: object) -> None:
    """Beside the text."""
    assert read_messages(parts({"type": "text", "text": "What is it?"}, part)) == ("What is it?", 2 + 1000)


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        (None, "messages", "missing_required_parameter"),
        ("hello", "messages", "invalid_type"),
        ({"role": "user"}, "messages", "invalid_type"),
        ([], "messages", "empty_array"),
        (["hello"], "messages[0]", "invalid_type"),
        ([USER, {"content": "x"}], "messages[1].role", "missing_required_parameter"),
        ([{"role": "robot", "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": "user"}], "messages[0].content", "missing_required_parameter"),
        ([{"role": "user", "content": 7}], "messages[0].content", "invalid_type"),
        ([{**USER, "mood": "x"}], "messages[0].mood", "unknown_parameter"),
        ([{**USER, "name": 7}], "messages[0].name", "invalid_type"),
        (parts("x"), "messages[0].content[0]", "invalid_type"),
        (parts({"text": "x"}), "messages[0].content[0].type", "missing_required_parameter"),
        (parts({"type": "text"}), "messages[0].content[0].text", "missing_required_parameter"),
        (parts({"type": "video"}), "messages[0].content[0].type", "invalid_value"),
        (parts({"type": "input_audio"}), "messages[0].content[0].input_audio", "missing_required_parameter"),
        (
            parts({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "ogg"}}),
            "messages[0].content[0].input_audio.format",
            "invalid_value",
        ),
        (parts({"type": "file", "file": "x"}), "messages[0].content[0].file", "invalid_type"),
        (parts({"type": "file", "file": {}}), "messages[0].content[0].file.filename", "missing_required_parameter"),
        (parts({"type": "image_url"}), "messages[0].content[0].image_url", "missing_required_parameter"),
        (parts({**IMAGE, "image_url": "x"}), "messages[0].content[0].image_url", "invalid_type"),
        (parts({**IMAGE, "image_url": {}}), "messages[0].content[0].image_url.url", "missing_required_parameter"),
        (
            parts({**IMAGE, "image_url": {"url": "x", "detail": "4k"}}),
            "messages[0].content[0].image_url.detail",
            "invalid_value",
        ),
        ([{"role": "function", "content": "x"}], "messages[0].name", "missing_required_parameter"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "missing_required_parameter"),
        ([{"role": "tool", "content": "x", "tool_call_id": "call_1"}], "messages[0].role", "invalid_value"),
        ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls", "invalid_type"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].id", "missing_required_parameter"),
        (
            [{"role": "assistant", "function_call": {"name": "f"}}],
            "messages[0].function_call.arguments",
            "missing_required_parameter",
        ),
    ],
)
def test_a_message_that_will_not_do_is_named_by_its_place(messages: Any, param: str, code: str) -> None:
    """As the API does, from the outside to the inside."""
    with pytest.raises(BadRequestError) as caught:
        read_messages(messages)

    assert (caught.value.param, caught.value.code, caught.value.status) == (param, code, 400)
