"""Raw bodies with `messages`: which API they are written for, by their members and by who is there."""

from base64 import b64encode
from typing import Any

import orjson
import pytest

from llmblast.models import Failure, RawBody, Request
from llmblast.providers import PROVIDERS
from llmblast.reading import RequestParser
from llmblast.settings import Settings

USER = {"role": "user", "content": "Hi"}
ONE, OTHER = PROVIDERS["openai"], PROVIDERS["anthropic"]


def parse(line: dict[str, Any], *providers: Any, **settings: Any) -> Request | Failure:
    return RequestParser(Settings(**settings), providers).parse(1, "0" * 16, orjson.dumps(line))


def dialect_of(line: dict[str, Any]) -> str:
    request = parse(line, ONE, OTHER)
    assert isinstance(request, Request), request
    assert isinstance(request.content, RawBody)
    assert request.closed_to == (0b01 if request.content.dialect == "anthropic.messages" else 0b10)
    return request.content.dialect


@pytest.mark.parametrize(
    "more",
    [
        {"system": "S"},
        {"stop_sequences": ["E"]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tools": [{"name": "f", "input_schema": {}}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}]},
        {"messages": [USER, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
    ],
    ids=str,
)
def test_members_of_the_messages_api_show_it(more: dict[str, Any]) -> None:
    assert dialect_of({"messages": [USER], "max_tokens": 9, **more}) == "anthropic.messages"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0},
        {"seed": 1},
        {"stop": "E"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "system", "content": "S"}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
    ],
    ids=str,
)
def test_all_others_are_chats(more: dict[str, Any]) -> None:
    """What fits both goes where it went before there was a second API."""
    assert dialect_of({"messages": [USER], "max_tokens": 9, **more}) == "openai.chat"


def test_without_a_second_api_nothing_is_looked_at() -> None:
    """A body is sent as it is, whatever it has."""
    line = {"messages": [USER], "system": "S"}
    request = parse(line, ONE)

    assert isinstance(request, Request)
    assert (request.path, request.kind, request.closed_to) == ("chat/completions", "openai", 0)
    assert request.body == orjson.dumps(line)


def test_what_fits_both_goes_to_the_messages_api_where_that_is_all_there_is() -> None:
    request = parse({"messages": [USER], "max_tokens": 9}, OTHER)

    assert isinstance(request, Request)
    assert (request.path, request.kind) == ("v1/messages", "anthropic")


@pytest.mark.parametrize("images", [[], ["https://h/a.png"]])
def test_a_prompt_is_for_the_first_kind_that_can_express_it(images: list[str]) -> None:
    """And is closed to the others."""
    plain = parse({"input": "x", "images": images}, OTHER, ONE)
    seeded = parse({"input": "x", "images": images, "params": {"seed": 1}}, OTHER, ONE)

    assert isinstance(plain, Request)
    assert isinstance(seeded, Request)
    assert (plain.kind, plain.closed_to) == ("anthropic", 0)
    assert (seeded.kind, seeded.closed_to) == ("openai", 0b01)


@pytest.mark.parametrize("parsed", ["simple", "raw"])
def test_an_image_for_the_messages_api_costs_by_its_pixels(parsed: str) -> None:
    """A picture of 750 x 100 is 100 tokens, whatever its base64 takes."""
    head = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (750).to_bytes(4) + (100).to_bytes(4) + b"\0" * 2000
    data = b64encode(head).decode()
    line: dict[str, Any] = {"input": "x", "images": [f"data:image/png;base64,{data}"]}
    if parsed == "raw":
        source = {"type": "base64", "media_type": "image/png", "data": data}
        line = {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}], "max_tokens": 9}

    request = parse(line, OTHER)

    assert isinstance(request, Request)
    assert (request.image_bytes, request.image_tokens) == (len(data), 100.0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"custom_id": 1, "params": {"messages": [USER]}}, '"custom_id" that is a string'),
        ({"custom_id": "a", "params": {"prompt": "x"}}, '"params" must be an object with "messages"'),
        ({"custom_id": "a", "params": {"messages": [USER], "stream": True}}, '"stream": true is not supported'),
        ({"input": "x", "images": ["data:image/svg+xml,<svg/>"]}, "takes no image/svg+xml"),
    ],
)
def test_a_line_that_cannot_be_sent_says_why(line: dict[str, Any], words: str) -> None:
    failure = parse(line, OTHER)

    assert isinstance(failure, Failure)
    assert words in failure.error
