"""Lines that name endpoint, model or headers for themselves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.models import Failure, Request
from llmblast.providers import providers_of
from llmblast.reading import RequestParser
from llmblast.setting_loading import load
from llmblast.settings import Settings
from tests.conftest import RunLlmblast, records
from tests.path_server import PathServer, serving

REPLIES: dict[str, object] = {
    "/chat/completions": {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]},
    "/messages": {"type": "message", "content": [{"type": "text", "text": "fine"}], "stop_reason": "end_turn"},
}


@pytest.fixture
def server() -> Iterator[PathServer]:
    with serving(REPLIES) as server:
        yield server


LINES: list[dict[str, object]] = [
    {"id": 1, "input": "a", "endpoint": "two", "headers": {"x-tag": "t", "user-agent": "me"}},
    {"id": 2, "messages": [{"role": "user", "content": "b"}], "temperature": 0.50, "endpoint": "one"},
    {"custom_id": "3", "body": {"messages": [{"role": "user", "content": "c"}]}, "endpoint": "one",
     "headers": {"X-Tag": "u"}},
]  # fmt: skip


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_a_line_goes_to_the_endpoint_that_it_names_with_its_headers(
    server: PathServer, llmblast: RunLlmblast, tmp_path: Path, transport: str
) -> None:
    """In lines of every format; what it says of that is not in the body."""
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, LINES)))
    urls = [f"{server.host}/v1,name=one,model=m1", f"{server.host}/v1/messages,name=two,model=m2"]

    done = llmblast("run", "in.jsonl", "-u", urls[0], "-u", urls[1], "--line-headers", "X-Tag,User-Agent",
                    "--transport", transport)  # fmt: skip

    assert done.returncode == 0, done.stderr
    by_tag = {headers.get("x-tag"): (path, headers, body) for path, headers, body in server.received}
    path, headers, body = by_tag["t"]
    assert (path, headers["user-agent"], body["model"]) == ("/v1/messages", "me", "m2")
    assert by_tag[None][0] == by_tag["u"][0] == "/v1/chat/completions"
    assert by_tag[None][2] == {"model": "m1", "messages": [{"role": "user", "content": "b"}], "temperature": 0.5}
    assert by_tag[None][1]["user-agent"].startswith("llmblast/")
    saved = {record.get("id"): record for record in records(tmp_path / "save.jsonl")}
    assert (saved[1]["endpoint"], saved[2]["endpoint"]) == ("two", "one")
    assert "headers" not in saved[1]


def test_a_line_names_its_model_beside_a_template(server: PathServer, llmblast: RunLlmblast, tmp_path: Path) -> None:
    """For each API in its own form; a record of an earlier run names the model that has answered it, which is none."""
    lines: list[dict[str, object]] = [
        {"q": "a", "model": "m-a", "endpoint": "one"},
        {"q": "b", "model": "m-b", "endpoint": "two"},
        {"q": "c"},
        {"key": "k", "line": 4, "attempts": 1, "input": "x", "q": "d", "model": "old", "endpoint": "gone"},
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    urls = [f"{server.host}/v1,name=one,model=m1", f"{server.host}/v1/messages,name=two,model=m1"]

    done = llmblast("run", "in.jsonl", "-u", urls[0], "-u", urls[1], "--prompt", "{q}")

    assert done.returncode == 0, done.stderr + (tmp_path / "errors.jsonl").read_text()
    asked = {body["messages"][0]["content"]: (path, body["model"]) for path, _, body in server.received}
    assert asked["a"] == ("/v1/chat/completions", "m-a")
    assert asked["b"] == ("/v1/messages", "m-b")
    assert asked["c"][1] == asked["d"][1] == "m1"


def parsed(line: object, **settings: Any) -> Request | Failure:
    made = load({"endpoints": ["http://h/v1,name=one", "http://h/v1/messages,name=two"], **settings}, None, {})
    parser = RequestParser(made, providers_of(made.endpoints))
    return parser.parse(1, "k", orjson.dumps(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"input": "a", "endpoint": "three"}, '"endpoint": "three" names no endpoint: write one of one, two'),
        ({"input": "a", "endpoint": 3}, '"endpoint": this value names no endpoint'),
        ({"input": "a", "endpoint": "two", "params": {"seed": 1}}, 'the endpoint "two" has another API'),
        ({"input": "a", "headers": {"X-Other": "a"}}, "'X-Other' is not allowed: allow it with --line-headers"),
        ({"input": "a", "headers": {"X-Tag": "a\nb"}}, "the value of 'X-Tag' must be a string"),
        ({"input": "a", "headers": {"X-Tag": 1}}, "the value of 'X-Tag' must be a string"),
        ({"input": "a", "headers": "x"}, '"headers" must be an object'),
        ({"endpoint": "one"}, "nothing to send"),
    ],
)
def test_a_choice_that_is_not_valid_makes_a_bad_line(line: object, message: str) -> None:
    failure = parsed(line, line_headers=["x-tag"])

    assert isinstance(failure, Failure)
    assert message in failure.error


def test_own_fields_may_have_these_names() -> None:
    request = parsed({"input": "a", "endpoint": "/users", "headers": 1}, own_fields=["endpoint", "headers"])

    assert isinstance(request, Request)
    assert request.extra == {"endpoint": "/users", "headers": 1}
    assert (request.closed_to, request.headers) == (0, None)


@pytest.mark.parametrize("header", ["Authorization", "HOST", "content-length", "x-api-key", "Cookie", "bad name"])
def test_lines_may_never_set_some_headers(header: str) -> None:
    with pytest.raises(UsageError, match="--line-headers: lines must not set"):
        RequestParser(Settings(line_headers=(header,)), providers_of(load({"endpoints": ["mock:"]}).endpoints))
