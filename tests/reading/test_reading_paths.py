"""Which API a line is for, and what of it is the user's own."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.api_paths import API_PATHS
from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Failure, Request
from llmblast.reading.members import take_out, take_out_id
from llmblast.settings import Settings
from tests.openai_provider import RequestParser

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

LONG_URL = f"/v1/{'a' * 2000}/rerank"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def parse(line: dict[str, Any] | bytes, **settings: Any) -> Request:
    text = line if isinstance(line, bytes) else orjson.dumps(line)
    result = RequestParser(Settings(**settings)).parse(3, "0" * 16, text)
    assert isinstance(result, Request), result.error
    return result


def extra_of(request: Request) -> dict[str, Any]:
    extra: dict[str, Any] = orjson.loads(orjson.dumps(dict(request.extra or {})))
    return extra


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": "m1", **CHAT, "max_tokens": 20}, "chat/completions"),
        (CHAT, "chat/completions"),
        ({"model": "emb", "input": "some text"}, "embeddings"),
        ({"prompt": "x"}, "completions"),
        ({"input": "x", "max_output_tokens": 5}, "responses"),
        ({"query": "x", "documents": ["y"]}, "rerank"),
        ({"text_1": "x", "text_2": "y"}, "score"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"url": None, "method": None}])
def test_a_batch_line_without_url_goes_where_its_body_fits(
    body: dict[str, Any], path: str, more: dict[str, Any]
) -> None:
    """Mistral and Together document such lines."""
    request = parse({"custom_id": "a", **more, "body": body})

    assert (request.path, orjson.loads(request.body)) == (path, body)


@pytest.mark.parametrize(
    ("url", "body", "path"),
    [
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", CHAT, "chat/completions"),
        ("/chat/completions", CHAT, "chat/completions"),
        ("https://x.openai.azure.com/openai/deployments/e/embeddings", {"input": "x"}, "embeddings"),
        ("HTTPS://api.openai.com/v1/responses/", {"input": "x"}, "responses"),
        ("/v1/responses", {"prompt": {"id": "p"}}, "responses"),
        ("/v1/moderations", {"input": "x"}, "moderations"),
        ("/v1/score", {"text_1": "x", "text_2": "y"}, "score"),
        ("/v1/rerank", {"query": "x", "documents": []}, "rerank"),
        ("/rerank", {"query": "x", "documents": []}, "rerank"),
        ("/v2/rerank", {"query": "x", "documents": []}, "v2/rerank"),
        ("/v1/images/generations", {"prompt": "x"}, "images/generations"),
        ("/v1/fim/completions", {"prompt": "x"}, "fim/completions"),
        ("/v1/chat/moderations", {"input": []}, "chat/moderations"),
        ("/v1/audio/transcriptions", {"file_url": "x"}, "audio/transcriptions"),
        ("/v1/embeddings", CHAT, "embeddings"),
    ],
)
def test_a_batch_lines_url_names_the_path(url: str, body: dict[str, Any], path: str) -> None:
    """Whatever stands before it: a host, a version, a deployment."""
    assert parse({"custom_id": "a", "method": "POST", "url": url, "body": body}).path == path


@pytest.mark.parametrize(
    "url",
    [
        "/v1/files",
        "/v1/xrerank",
        "chat",
        "",
        "/v1/responses/abc",
        "/v1/responses#x/rerank/y",
        LONG_URL,
        "/../rerank",
    ],
)
def test_a_url_of_no_known_path_is_told(url: str) -> None:
    """Answers of other paths cannot be read."""
    text = orjson.dumps({"custom_id": "a", "url": url, "body": {"model": "m"}})
    result = RequestParser(Settings()).parse(3, "0" * 16, text)

    assert isinstance(result, Failure)
    assert '"url" must be one of /v1/chat/completions, ' in result.error or "which responses needs" in result.error


@pytest.mark.parametrize("method", ["POST", "post", "Post", None])
@pytest.mark.parametrize("custom_id", ["a", 7, 0])
def test_methods_in_lower_case_and_integer_ids_are_fine(method: str | None, custom_id: str | int) -> None:
    """The record repeats the id as it is."""
    request = parse({"custom_id": custom_id, "method": method, "url": "/v1/chat/completions", "body": CHAT})

    assert request.id == custom_id


@pytest.mark.parametrize(
    ("url", "line", "path"),
    [
        ("http://h/v1/responses", {"model": "m", "input": "x"}, "responses"),
        ("http://h/v1/responses?api-version=1", {"custom_id": "a", "body": {"input": "x"}}, "responses"),
        ("http://h/v1/responses", {"model": "m", "prompt": "x"}, "completions"),
        ("http://h/v1/responses", CHAT, "chat/completions"),
        ("http://h/v1/moderations", {"model": "m", "input": "x"}, "moderations"),
        ("http://h/v1/chat/completions", {"model": "m", "input": "x"}, "embeddings"),
        ("http://h/v1", {"model": "m", "input": "x"}, "embeddings"),
    ],
)
def test_an_endpoints_url_names_the_path_for_lines_that_fit(url: str, line: dict[str, Any], path: str) -> None:
    """A body with an input may be for several APIs."""
    assert parse(line, endpoints=(EndpointSettings(url=url),)).path == path


def test_a_raw_lines_id_is_not_sent() -> None:
    """Strict providers refuse members that they do not know; all other bytes stay as they are."""
    text = b'{ "id": "a1",\t"messages" : [1.10, 123456789012345678901234567890, "\\u00e9"] , "custom_id":null,"n":1e5 }'

    request = parse(text)

    assert (request.id, request.extra) == ("a1", None)
    assert request.body == b'{"messages" : [1.10, 123456789012345678901234567890, "\\u00e9"],"n":1e5}'
    assert orjson.dumps(request.input) == request.body
    assert request.text == text


def test_own_fields_of_a_raw_line_go_into_the_record_only() -> None:
    """Those that are named, with all their digits; `metadata` is sent unless it is."""
    line = b'{"messages":[],"source":"wiki","row":12345678901234567890123,"metadata":{"a":1}}'

    request = parse(line, own_fields=("source", "row"))

    assert request.body == b'{"messages":[],"metadata":{"a":1}}'
    assert orjson.dumps(dict(request.extra or {})) == b'{"source":"wiki","row":12345678901234567890123}'


def test_own_fields_of_a_batch_line_are_beside_its_body_or_named() -> None:
    """What stands beside the body was never sent."""
    line = {"custom_id": "a", "split": "dev", "body": {**CHAT, "source": "wiki", "metadata": {}}}

    request = parse(line, own_fields=("source",))

    assert orjson.loads(request.body) == {**CHAT, "metadata": {}}
    assert extra_of(request) == {"split": "dev", "source": "wiki"}


def test_own_fields_of_a_simple_line_may_have_names_of_ours() -> None:
    """A column called `system` is then no system message."""
    line = {"input": "x", "system": {"os": "linux"}, "model": "Golf", "id": 5}

    request = parse(line, own_fields=("system", "model", "id"))

    assert orjson.loads(request.body) == {"messages": [{"role": "user", "content": "x"}]}
    assert (request.id, extra_of(request)) == (5, {"system": {"os": "linux"}, "model": "Golf"})


def test_background_responses_are_refused() -> None:
    """Their reply has no answer yet."""
    result = RequestParser(Settings()).parse(3, "0" * 16, b'{"model":"m","input":"x","background":true}')

    assert isinstance(result, Failure)
    assert '"background": true is not supported' in result.error


def test_the_body_of_every_path_is_recognised_by_its_first_member() -> None:
    """The table is complete: no path asks for a member that does not fit it."""
    for path, members in API_PATHS.items():
        body = {members[0] if members else "x": "y"}
        assert parse({"custom_id": "a", "url": f"/v1/{path}", "body": body}).path == path


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3) | st.sampled_from(["id", "own"]), json_values), st.booleans())
def test_taking_out_members_leaves_all_others(fields: dict[str, object], is_spaced: bool) -> None:
    """Whatever they hold, and however the line is written."""
    import json

    text = json.dumps(fields, separators=(" , ", " : ") if is_spaced else (",", ":"), ensure_ascii=is_spaced)
    left, taken = take_out(text.encode("utf-8", "surrogatepass") if is_spaced else text.encode(), {"id", "own"})

    assert json.loads(left) == {name: value for name, value in fields.items() if name not in ("id", "own")}
    assert taken.keys() == fields.keys() & {"id", "own"}


@given(st.dictionaries(st.text(max_size=3) | st.just("id"), json_values), st.booleans(), st.sampled_from([0, -1, 1]))
def test_an_id_is_taken_out_the_same_in_the_quick_way(fields: dict[str, object], is_spaced: bool, place: int) -> None:
    """Where it can be: first or last."""
    import json

    names = [name for name in fields if name != "id"]
    names.insert(len(names) if place < 0 else place, "id")
    line = {name: fields.get(name, "row 1") for name in names}
    text = json.dumps(line, separators=(" , ", " : ") if is_spaced else (",", ":")).encode()

    quick, (thorough, _) = take_out_id(text, "id"), take_out(text, {"id"})

    assert quick is None or json.loads(quick) == json.loads(thorough)


def test_the_usual_places_of_an_id_are_quick() -> None:
    """The first and the last."""
    first, last = b'{"id":"a","messages":[]}', b'{ "messages" : [] , "id" : 5 }'
    others = [b'{"n":1,"id":"a","messages":[]}', b'{"id":"a"}', b'{"id":"\\u0022","n":1}', b'{"n":{"id":1}}']

    assert (take_out_id(first, "id"), take_out_id(last, "id")) == (b'{"messages":[]}', b'{ "messages" : [] }')
    assert [take_out_id(text, "id") for text in others] == [None] * 4
