"""llama.cpp's own HTTP server with a model of random weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.conftest import LINES, Check, Run
from tests.servers.foreign_server import ForeignServer

pytestmark = pytest.mark.servers
SERVER = str(Path(__file__).with_name("llama_server.py"))
KEY = "key-of-llama"
SLOTS = 4
STARTED = "processing task, is_child = 0"
"""Its log, once for each text that it generates."""
PARAMS = ("--params", '{"max_tokens":8}')


def llama_server(folder: Path, task: str) -> ForeignServer:
    """Return the server, with four slots and a context of 256 tokens for each, to be started."""
    command = ("python", SERVER, str(folder / "tiny.gguf"), task)
    return ForeignServer(*command, is_up="serving", address=r"serving on (\S+)", environ={"SERVER_KEY": KEY})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignServer]:
    """The server that generates text."""
    with llama_server(tmp_path_factory.mktemp("model"), "chat") as server:
        yield server


@pytest.mark.parametrize("endpoint", ["{}/v1", f"{{}}/v1,concurrency={SLOTS}", "{}"], ids=["learned", "set", "no path"])
def test_all_lines_are_answered(server: ForeignServer, run: Run, endpoint: str) -> None:
    """Each is generated once, and none waits until the server drops idle connections, after 5 s."""
    server.forget()

    outcome = run("-u", endpoint.format(server.url), "-m", "tiny", *PARAMS, OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 0, outcome.said
    assert {answer["id"] for answer in outcome.answers} == {f"row-{n}" for n in range(LINES)}
    assert {answer["attempts"] for answer in outcome.answers} == {1}
    assert all(answer["usage"]["completion_tokens"] <= 8 for answer in outcome.answers)
    assert server.count(STARTED, LINES) == LINES
    assert outcome.summary["requests"]["rate_limited"] == 0


def test_lines_that_are_too_long_fail_alone(server: ForeignServer, run: Run) -> None:
    """Each by one request; the others are answered."""
    lines = [{"id": n, "input": "long " * 100 if n % 10 == 0 else "Yes?"} for n in range(LINES)]

    outcome = run("-u", f"{server.url}/v1", "-m", "tiny", *PARAMS, lines=lines, OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 3, outcome.said
    assert {error["id"] for error in outcome.errors} == set(range(0, LINES, 10))
    assert {(error["attempts"], error["transient"]) for error in outcome.errors} == {(1, False)}
    assert "exceeds the available context size" in outcome.errors[0]["error"]


def test_what_the_server_cannot_do_fails_at_once(server: ForeignServer, run: Run) -> None:
    """Embeddings, for which it was not started; nothing is sent again."""
    embeddings = {"model": "tiny", "input": "Yes?"}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Yes?"}], "max_tokens": 8}
    lines = [
        {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {"custom_id": "vector", "method": "POST", "url": "/v1/embeddings", "body": embeddings},
    ]

    outcome = run("-u", f"{server.url}/v1", "-j", "1", lines=lines, OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 3, outcome.said
    assert [answer["custom_id"] for answer in outcome.answers] == ["chat"]
    (error,) = outcome.errors
    assert (error["custom_id"], error["attempts"], error["status"]) == ("vector", 1, 501)


def test_embeddings_are_answered(tmp_path: Path, run: Run) -> None:
    """Several texts in a line, and a text that is too long in one of them."""
    lines = [{"model": "tiny", "input": [f"first {n}", "long " * 100 if n == 7 else "second"]} for n in range(LINES)]

    with llama_server(tmp_path, "embeddings") as server:
        outcome = run("-u", f"{server.url}/v1", lines=lines, OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 3, outcome.said
    assert [(error["line"], error["attempts"], error["transient"]) for error in outcome.errors] == [(8, 1, False)]
    assert len(outcome.answers) == LINES - 1
    assert {len(answer["response"]) for answer in outcome.answers} == {2}


def test_structured_answers_fit(server: ForeignServer, run: Run, tmp_path: Path) -> None:
    """The schema is sent, and llama.cpp keeps to it: even random weights answer with the right JSON."""
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type":"object","properties":{"good":{"type":"boolean"}},"required":["good"],"additionalProperties":false}'
    )

    outcome = run("-u", f"{server.url}/v1", "-m", "tiny", "--schema", str(schema), "--limit", "20", OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 0, outcome.said
    assert {str(answer["parsed"]) for answer in outcome.answers} <= {"{'good': True}", "{'good': False}"}


def test_check_tells_what_is_wrong(server: ForeignServer, check: Check) -> None:
    assert check(f"{server.url}/v1,model=tiny", OPENAI_API_KEY=KEY)["state"] == "ok"
    assert check(f"{server.url}/v1,model=tiny", OPENAI_API_KEY="wrong")["state"] == "not authorised"
    assert check(f"{server.url}/v2,model=tiny", OPENAI_API_KEY=KEY)["state"] == "model or path unknown"
