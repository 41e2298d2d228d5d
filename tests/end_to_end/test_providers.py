"""Endpoints of several providers in one run: who gets which line, in which form, with which key."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.errors import ExitCode
from llmblast.mocking.server import MockServer, ScriptedReply
from tests.conftest import CANARY, ROOT, RunLlmblast, StartMock, records, write_prompts

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def write_lines(path: Path, *lines: object) -> Path:
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


def received(server: MockServer) -> list[tuple[str, dict[str, Any]]]:
    return [(arrival.path, orjson.loads(arrival.body)) for arrival in server.ledger]


def as_anthropic(server: MockServer) -> str:
    return f"{server.url},kind=anthropic"


def test_one_file_goes_to_endpoints_of_both_kinds(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Each gets its share by its weight, in its own form; the records are alike."""
    write_prompts(tmp_path / "in.jsonl", 60)
    one, other = start_mock(), start_mock()
    urls = ("-u", f"{one.url},weight=2,model=gpt", "-u", f"{as_anthropic(other)},model=claude,name=claude")

    done = llmblast("run", "in.jsonl", *urls, "-j", "1", "--system", "Be brief.", "--params", '{"stop": "END"}')

    saved = records(tmp_path / "save.jsonl")
    assert done.returncode == ExitCode.OK, done.stderr
    assert len(saved) == 60
    assert Counter(record["model"] for record in saved) == {"gpt": 40, "claude": 20}
    assert {record["finish_reason"] for record in saved} == {"stop"}
    assert all(record["response"] for record in saved)
    path, body = received(other)[0]
    assert path == MESSAGES
    assert (body["system"], body["stop_sequences"], body["max_tokens"]) == ("Be brief.", ["END"], 4096)
    path, body = received(one)[0]
    assert path == CHAT
    assert (body["messages"][0]["role"], body["stop"]) == ("system", "END")


def test_a_line_that_fails_at_one_kind_is_answered_by_the_other(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """An endpoint that is overloaded for good, and one that wants another key, are not the end of a line."""
    write_prompts(tmp_path / "in.jsonl", 40)
    overloaded = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    broken = start_mock(script=lambda index, body: ScriptedReply(529, overloaded))
    locked, works = start_mock("latency=0&key=sk-ant-other"), start_mock()
    urls = ("-u", as_anthropic(broken), "-u", as_anthropic(locked), "-u", works.url)

    done = llmblast("run", "in.jsonl", *urls, ANTHROPIC_API_KEY="sk-ant-mine-0123")

    assert done.returncode == ExitCode.OK, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 40
    assert {path for path, _ in received(works)} == {CHAT}
    assert {path for path, _ in received(broken)} | {path for path, _ in received(locked)} == {MESSAGES}


def test_limits_in_headers_of_both_kinds_are_followed(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Each endpoint by its own words: neither rejects a request once its first reply has told its limit."""
    write_prompts(tmp_path / "in.jsonl", 60)
    query = "latency=0.01&rpm=1200&policy=token-bucket&burst=1"
    one, other = start_mock(f"{query}&headers=openai"), start_mock(f"{query}&headers=anthropic")

    done = llmblast("run", "in.jsonl", "-v", "-u", f"{one.url},name=one", "-u", f"{as_anthropic(other)},name=other")

    assert done.returncode == ExitCode.OK, done.stderr
    for name in ("one", "other"):
        assert f"{name}: the provider reports a limit of 1,200 requests" in done.stderr


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_images_go_in_the_form_of_each_api(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, transport: str
) -> None:
    """In whatever order the endpoints stand, and over both transports."""
    images = [f"data:image/png;base64,{PIXEL}", "https://example.com/a.png"]
    write_lines(tmp_path / "in.jsonl", *({"input": f"What {n}?", "images": images} for n in range(10)))
    one, other = start_mock(), start_mock()

    done = llmblast("run", "in.jsonl", "-u", as_anthropic(other), "-u", one.url, "--transport", transport)

    assert done.returncode == ExitCode.OK, done.stderr
    sources = [part["source"]["type"] for part in received(other)[0][1]["messages"][0]["content"][:2]]
    urls = [part["image_url"]["url"] for part in received(one)[0][1]["messages"][0]["content"][1:]]
    assert sources == ["base64", "url"]
    assert urls == images


def test_each_provider_gets_its_own_key_only(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The default one of its kind, in the header of its kind."""
    write_prompts(tmp_path / "in.jsonl", 20)
    one, other = start_mock(f"latency=0&key={CANARY}"), start_mock("latency=0&key=sk-ant-mine-0123")

    done = llmblast("run", "in.jsonl", "-u", one.url, "-u", as_anthropic(other), ANTHROPIC_API_KEY="sk-ant-mine-0123")

    assert done.returncode == ExitCode.OK, done.stderr
    assert one.received
    assert other.received
    alone = start_mock(f"latency=0&key={CANARY}")
    done = llmblast("run", "in.jsonl", "-u", as_anthropic(alone), "-o", "two.jsonl")
    assert done.returncode == ExitCode.REFUSED
    assert not any(arrival.has_authorization for arrival in alone.ledger)


def test_a_raw_body_goes_only_to_endpoints_that_speak_its_dialect(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """What shows no dialect counts as chat, where any endpoint speaks that."""
    user = [{"role": "user", "content": "Hi"}]
    write_lines(
        tmp_path / "in.jsonl",
        *[{"messages": user, "model": "m"}] * 5,
        *[{"messages": user, "model": "m", "max_tokens": 9, "system": "S"}] * 5,
        *[{"input": "x", "model": "e"}] * 5,
        {"custom_id": "b", "params": {"messages": user, "model": "m", "max_tokens": 9}},
    )
    one, other = start_mock(), start_mock()

    done = llmblast("run", "in.jsonl", "-u", as_anthropic(other), "-u", one.url)

    assert done.returncode == ExitCode.OK, done.stderr
    assert Counter(path for path, _ in received(one)) == {CHAT: 5, "/v1/embeddings": 5}
    assert Counter(path for path, _ in received(other)) == {MESSAGES: 6}


def test_a_body_that_no_endpoint_takes_is_a_bad_line(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With the reason, in a check and in a run; others are answered."""
    user = [{"role": "user", "content": "Hi"}]
    lines: list[object] = [
        {"input": "text", "model": "e"},
        {"messages": [{"role": "system", "content": "S"}, *user]},
        {"messages": user, "max_tokens": 9},
        {"input": "x", "params": {"seed": 1}},
    ]
    write_lines(tmp_path / "in.jsonl", *lines)
    server = start_mock()

    checked = llmblast("check", "in.jsonl", "-u", as_anthropic(server))
    done = llmblast("run", "in.jsonl", "-u", as_anthropic(server))

    assert checked.returncode == done.returncode == ExitCode.SOME_FAILED
    errors = {record["line"]: record["error"] for record in records(tmp_path / "errors.jsonl")}
    assert "no endpoint takes openai.embeddings requests" in errors[1]
    assert "no endpoint takes openai.chat requests" in errors[2]
    assert 'no parameter like "seed"' in errors[4]
    assert all(error in checked.stdout for error in errors.values())
    assert [path for path, _ in received(server)] == [MESSAGES]


def test_an_anthropic_batch_is_answered_in_its_own_form(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Results and errors, each with our members beside; running it again sends nothing."""
    params = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi there"}]}
    broken = {**params, "max_tokens": 0}
    write_lines(
        tmp_path / "in.jsonl", {"custom_id": "a", "params": params}, {"custom_id": "b", "params": broken, "mine": 7}
    )
    server = start_mock()
    command = ("run", "in.jsonl", "-u", as_anthropic(server))

    done = llmblast(*command)
    again = llmblast(*command)

    (answer,), (error,) = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == again.returncode == ExitCode.SOME_FAILED, done.stderr
    assert (answer["custom_id"], answer["result"]["type"]) == ("a", "succeeded")
    assert answer["result"]["message"]["content"][0]["type"] == "text"
    assert (error["custom_id"], error["result"]["type"]) == ("b", "errored")
    assert error["result"]["error"]["error"]["type"] == "invalid_request_error"
    assert server.received == 2


def test_a_line_waits_for_the_only_kind_that_takes_it(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """An endpoint that rejects the key is out; lines for it alone stay pending, and the others are answered."""
    user = [{"role": "user", "content": "Hi"}]
    write_lines(
        tmp_path / "in.jsonl",
        *[{"messages": user, "max_tokens": 9, "system": f"S{n}"} for n in range(12)],
        *[{"input": f"Question {n}?"} for n in range(12)],
    )
    locked, works = start_mock("latency=0&key=sk-ant-other"), start_mock()
    urls = ("-u", as_anthropic(locked), "-u", works.url)

    done = llmblast("run", "in.jsonl", *urls, "-j", "4", ANTHROPIC_API_KEY="sk-ant-mine-0123")

    saved = records(tmp_path / "save.jsonl")
    assert {record["line"] for record in saved} == set(range(13, 25))
    assert done.returncode == ExitCode.STOPPED, done.stderr
    assert "12 lines wait for an endpoint that speaks their API" in done.stderr
    assert {path for path, _ in received(works)} == {CHAT}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/v1,kind=antropic", "kind 'antropic' is not known: write one of openai, anthropic, azure"),
        ("https://api.anthropic.com", "export ANTHROPIC_API_KEY="),
        ("https://api.anthropic.com/v1/chat/completions", "export ANTHROPIC_API_KEY="),
        ("https://api.openai.com/v1,kind=anthropic", "export OPENAI_API_KEY="),
    ],
)
def test_what_an_endpoint_lacks_is_said_before_anything_is_sent(
    tmp_path: Path, llmblast: RunLlmblast, url: str, words: str
) -> None:
    """A kind that there is not, and the key of the host, whatever is spoken there."""
    write_prompts(tmp_path / "in.jsonl", 1)

    done = llmblast("run", "in.jsonl", "-u", url, OPENAI_API_KEY="")

    assert done.returncode == ExitCode.USAGE
    assert words in done.stderr


def test_the_built_in_endpoint_speaks_both(tmp_path: Path, llmblast: RunLlmblast) -> None:
    write_prompts(tmp_path / "in.jsonl", 20)

    done = llmblast("run", "in.jsonl", "-u", "mock:", "-u", "mock:,kind=anthropic")

    assert done.returncode == ExitCode.OK, done.stderr
    assert {len(record["usage"]) for record in records(tmp_path / "save.jsonl")} == {3, 5}


TOY = '''
"""A provider and a format in one file: plain texts, answered by plain texts."""
import sys

import orjson

from llmblast.providers import PROVIDERS
from llmblast.reading.fields import BadLine
from llmblast.reading.formats import FORMATS
from llmblast.models import Answer, ReplyError


class Toy:
    kind = "toy"
    dialects = {"toy.echo": "echo", "openai.chat": "as-chat"}
    hosts = ()
    key_env = "TOY_KEY"
    headers = {"x-toy": "1"}

    def base_url(self, url):
        return url

    def names_path(self, url):
        return False

    def auth_header(self, url, key):
        return "x-toy-key", key

    def unsupported_in(self, prompt):
        return "toys take no images" if prompt.parts else None

    def render(self, prompt):
        return "echo", orjson.dumps({"say": prompt.text})

    def read_answer(self, request, reply):
        said = orjson.loads(reply.body).get("said")
        return Answer(said, "stop") if said else ReplyError("no word", "unusable_reply")

    def read_error(self, reply):
        return ReplyError(reply.body.decode(), "")

    def named_wait_s(self, error, reply, wall_now_s):
        return None

    def read_limits(self, headers, wall_now_s):
        return []


class ToyFormat:
    def __init__(self, settings, router):
        self._router = router

    def claims(self, fields):
        return "say" in fields

    def parse(self, number, key, text, fields):
        return self._router.raw_request(
            number, key, text, line_id=number, extra={}, dialect="toy.echo", body=text, members=fields
        )


PROVIDERS["toy"] = Toy()
FORMATS["toy"] = ToyFormat

from llmblast.cli import main

sys.argv[0] = "llmblast"
main()
'''


def test_a_new_provider_and_a_new_format_are_one_class_and_one_line_each(
    tmp_path: Path, start_mock: StartMock, environment: dict[str, str]
) -> None:
    """A file of lines for one, for the other and for both runs over two providers."""
    (tmp_path / "toy.py").write_text(TOY)
    write_lines(
        tmp_path / "in.jsonl",
        *({"say": f"echo {n}"} for n in range(6)),
        *({"input": f"Question {n}?"} for n in range(20)),
        {"input": "Look", "images": ["https://example.com/a.png"]},
        *({"messages": [{"role": "user", "content": f"Chat {n}"}]} for n in range(10)),
    )
    toys = start_mock(script=lambda index, body: ScriptedReply(body=orjson.dumps({"said": "toy"})))
    chats = start_mock()
    urls = ("-u", f"{toys.url},kind=toy,name=toys", "-u", f"{chats.url},name=chats")

    done = subprocess.run(
        [sys.executable, "toy.py", "run", "in.jsonl", *urls],
        cwd=tmp_path,
        env={**environment, "TOY_KEY": "a-key-of-toys", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    saved = {record["line"]: record["endpoint"] for record in records(tmp_path / "save.jsonl")}
    assert done.returncode == ExitCode.OK, done.stderr
    assert len(saved) == 37
    assert {saved[line] for line in range(1, 7)} == {"toys"}
    assert saved[27] == "chats"
    assert {path for path, _ in received(chats)} == {CHAT}
    assert {path for path, _ in received(toys)} == {"/v1/echo", "/v1/as-chat"}
