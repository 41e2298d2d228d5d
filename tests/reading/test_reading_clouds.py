"""Lines in the forms of Gemini and Bedrock: what is sent of them, and where their models and names go."""

from typing import Any

import orjson
import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Failure, Request
from llmblast.providers import PROVIDERS
from llmblast.reading import RequestParser
from llmblast.settings import Settings

CONTENTS = [{"role": "user", "parts": [{"text": "Why?"}]}]
MESSAGES = [{"role": "user", "content": [{"text": "Why?"}]}]
GEMINI, CONVERSE = "models/{model}:generateContent", "model/{model}/converse"


def parse(line: object, *kinds: str, **settings: Any) -> Request | Failure:
    text = line if isinstance(line, bytes) else orjson.dumps(line)
    endpoints = tuple(EndpointSettings(url="http://h", name=kind, kind=kind) for kind in kinds)
    parser = RequestParser(Settings(endpoints=endpoints, **settings), [PROVIDERS[kind] for kind in kinds])
    return parser.parse(1, "k", text)


def a_request(line: object, *kinds: str, **settings: Any) -> Request:
    request = parse(line, *kinds, **settings)
    assert isinstance(request, Request), request
    return request


@pytest.mark.parametrize("kinds", [("gemini",), ("bedrock", "gemini"), ("openai", "gemini", "bedrock")])
@pytest.mark.parametrize(
    ("line", "path", "body", "line_id", "model"),
    [
        ({"contents": CONTENTS}, GEMINI, {"contents": CONTENTS}, 1, None),
        ({"id": "a", "contents": CONTENTS}, GEMINI, {"contents": CONTENTS}, "a", None),
        (
            {"model": "gemini-x", "contents": CONTENTS},
            "models/gemini-x:generateContent",
            {"contents": CONTENTS},
            1,
            "gemini-x",
        ),
        ({"key": "r1", "request": {"contents": CONTENTS}}, GEMINI, {"contents": CONTENTS}, "r1", None),
        (
            {"key": "r1", "request": {"model": "models/gemini-x", "contents": CONTENTS}},
            "models/gemini-x:generateContent",
            {"contents": CONTENTS},
            "r1",
            "models/gemini-x",
        ),
        ({"request": {"contents": CONTENTS}}, GEMINI, {"contents": CONTENTS}, 1, None),
    ],
)
def test_lines_of_gemini(
    line: object, path: str, body: object, line_id: object, model: str | None, kinds: tuple[str, ...]
) -> None:
    """Whatever else the endpoints speak."""
    request = a_request(line, *kinds)

    assert (request.path, orjson.loads(request.body), request.id) == (path, body, line_id)
    assert (request.model, request.kind, request.needs_model) == (model, "gemini", True)


@pytest.mark.parametrize("kinds", [("bedrock",), ("openai", "bedrock"), ("anthropic", "openai", "bedrock")])
@pytest.mark.parametrize(
    ("line", "path", "line_id", "model"),
    [
        ({"messages": MESSAGES}, CONVERSE, 1, None),
        ({"id": "a", "messages": MESSAGES}, CONVERSE, "a", None),
        ({"modelId": "m:0", "messages": MESSAGES}, "model/m%3A0/converse", 1, "m:0"),
        ({"recordId": "r1", "modelInput": {"messages": MESSAGES}}, CONVERSE, "r1", None),
        ({"recordId": "r1", "modelInput": {"modelId": "m", "messages": MESSAGES}}, "model/m/converse", "r1", "m"),
    ],
)
def test_lines_of_bedrock(line: object, path: str, line_id: object, model: str | None, kinds: tuple[str, ...]) -> None:
    request = a_request(line, *kinds)

    assert (request.path, orjson.loads(request.body), request.id) == (path, {"messages": MESSAGES}, line_id)
    assert (request.model, request.kind) == (model, "bedrock")


def test_limits_of_tokens_are_found_where_each_api_has_them() -> None:
    """In both spellings of Google."""
    config = {"contents": CONTENTS, "generationConfig": {"maxOutputTokens": 7}}
    spelled = {"contents": CONTENTS, "generation_config": {"max_output_tokens": 8}}

    assert a_request(config, "gemini").max_tokens == 7
    assert a_request({"request": spelled}, "gemini").max_tokens == 8
    assert a_request({"messages": MESSAGES, "inferenceConfig": {"maxTokens": 9}}, "bedrock").max_tokens == 9


def test_own_fields_are_kept_exactly_and_not_sent() -> None:
    huge = b"123456789012345678901234567890"
    raw = a_request(b'{"n":%b,"contents":[],"seed":1.50}' % huge, "gemini", own_fields=("n",))
    batch = a_request(b'{"key":"a","request":{"contents":[],"seed":%b},"n":1.5}' % huge, "gemini")

    assert (raw.body, raw.extra is not None and orjson.dumps(raw.extra["n"])) == (b'{"contents":[],"seed":1.50}', huge)
    assert batch.body == b'{"contents":[],"seed":%b}' % huge
    assert batch.extra is not None
    assert orjson.dumps(batch.extra["n"]) == b"1.5"


def test_other_lines_stay_what_they_are() -> None:
    """A chat is no Converse request, and a simple line may have fields of any name."""
    chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]}

    assert a_request(chat, "openai", "bedrock").kind == "openai"
    assert a_request({"input": "Why?", "request": {"a": 1}}, "gemini").extra == {"request": {"a": 1}}


@pytest.mark.parametrize(
    ("line", "kinds", "words"),
    [
        ({"contents": CONTENTS}, ("openai",), "no endpoint takes gemini.generate requests, all speak openai"),
        ({"key": "a", "request": {"contents": CONTENTS}}, ("bedrock",), "no endpoint takes gemini.generate requests"),
        ({"recordId": "a", "modelInput": {"messages": MESSAGES}}, ("openai",), "no endpoint takes bedrock.converse"),
        (
            {"recordId": "a", "modelInput": {"prompt": "x"}},
            ("bedrock",),
            "Bedrock InvokeModel batch lines are not supported",
        ),
        ({"key": ["a"], "request": {"contents": CONTENTS}}, ("gemini",), '"key" must be a string or an integer'),
        ({"model": 3, "contents": CONTENTS}, ("gemini",), '"model" must be a string'),
    ],
)
def test_bad_lines_say_why(line: object, kinds: tuple[str, ...], words: str) -> None:
    failure = parse(line, *kinds)

    assert isinstance(failure, Failure)
    assert words in failure.error


def test_a_line_that_names_its_model_goes_only_where_it_can() -> None:
    """Its body names it for one API, the URL for another: not the same bytes."""
    line = {"model": "claude", "system": "Be brief", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 5}
    unnamed = {name: value for name, value in line.items() if name != "model"}

    named = a_request(line, "anthropic", "vertex-anthropic")
    alone = a_request(line, "vertex-anthropic")

    assert (named.closed_to, a_request(unnamed, "anthropic", "vertex-anthropic").closed_to) == (0b10, 0)
    assert (alone.path, orjson.loads(alone.body)) == ("publishers/anthropic/models/claude:rawPredict", unnamed)
