"""Proxies, URLs and secrets as a person meets them: what the command prints and writes, as a real process."""

import asyncio
import base64
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import CANARY, RunLlmblast, StartMock, canary_places, records, write_prompts
from tests.proxy_server import HttpProxy

PASSWORD = "p@ss-w0rd/of+proxy"
LOGIN = f"user:{PASSWORD}"
IN_URL = f"user:{quote(PASSWORD, safe='')}"
TELLING = ["-v", "--json", "--body", "always", "--timeline", "timeline.jsonl"]


def texts_below(folder: Path) -> str:
    """All that was written, but for the prompts."""
    written = (path for path in folder.rglob("*") if path.is_file() and path.name != "prompts.jsonl")
    return "".join(path.read_text(errors="replace") for path in written)


def assert_no_password(folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
    encoded = base64.b64encode(LOGIN.encode()).decode()
    for text in (done.stdout, done.stderr, texts_below(folder)):
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text
        assert encoded not in text


@pytest.mark.parametrize("transport", ["lean", "session"])
async def test_a_run_through_a_proxy(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, transport: str
) -> None:
    """It is named once with -v; its password stands nowhere, not even in the command to go on with."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 20)
    async with HttpProxy(urlsplit(server.url).port or 0, LOGIN) as proxy:
        url = f"http://gpu.invalid/v1,proxy=http://{IN_URL}@127.0.0.1:{proxy.port}"
        arguments = ["run", "prompts.jsonl", "-u", url, "--transport", transport, *TELLING]
        done = await asyncio.to_thread(llmblast, *arguments)

    assert done.returncode == 0, done.stderr
    assert f"gpu.invalid: requests go through the proxy http://127.0.0.1:{proxy.port}" in done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 20
    assert proxy.asked[0] == "POST http://gpu.invalid/v1/chat/completions HTTP/1.1"
    assert_no_password(tmp_path, done)


@pytest.mark.parametrize("url", ["https://api.example.invalid/v1", "http://api.example.invalid/v1"])
@pytest.mark.parametrize("transport", ["lean", "session"])
async def test_a_proxy_that_wants_another_password(
    tmp_path: Path, llmblast: RunLlmblast, transport: str, url: str
) -> None:
    """The run ends at once with the proxy's name; the lines stay pending, and nothing may have been billed."""
    write_prompts(tmp_path / "prompts.jsonl", 20)
    async with HttpProxy(login="user:another") as proxy:
        own = f"{url},proxy=http://{IN_URL}@127.0.0.1:{proxy.port}"
        done = await asyncio.to_thread(llmblast, "run", "prompts.jsonl", "-u", own, "--transport", transport, *TELLING)

    assert done.returncode == 77, done.stderr
    assert f"the proxy http://127.0.0.1:{proxy.port} refuses api.example.invalid:" in done.stderr
    assert "HTTP 407: proxy user or password is wrong" in done.stderr
    assert records(tmp_path / "errors.jsonl") == []
    assert_no_password(tmp_path, done)


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_a_proxy_that_is_dead(tmp_path: Path, llmblast: RunLlmblast, transport: str) -> None:
    """Not the endpoint, whose name only the proxy can resolve."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast(
        *("run", "prompts.jsonl", "-u", "https://api.example.invalid/v1", "--transport", transport),
        HTTPS_PROXY=f"http://{IN_URL}@127.0.0.1:{port}",
    )

    assert done.returncode == 77
    assert f"the proxy http://127.0.0.1:{port} cannot be reached: connection refused" in done.stderr
    assert_no_password(tmp_path, done)


def test_a_wrong_proxy_is_a_usage_error(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The sentence has no password."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "https://h.invalid/v1", ALL_PROXY=f"gopher://{IN_URL}@h:1")

    assert done.returncode == 2
    assert "the variable ALL_PROXY: 'gopher://(hidden)@h:1' has an unknown scheme" in done.stderr
    assert_no_password(tmp_path, done)


def test_a_certificate_that_is_missing_is_a_usage_error(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Before anything is sent."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "https://h.invalid/v1,ca_file=none.pem")

    assert done.returncode == 2
    assert "endpoint h.invalid: ca_file none.pem cannot be read: No such file or directory" in done.stderr


def test_a_wrong_variable_for_certificates_is_told(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The run goes on with the others."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "https://127.0.0.1:9/v1", SSL_CERT_FILE=f"{tmp_path}/none.pem")

    assert done.returncode == 77
    assert f"SSL_CERT_FILE {tmp_path}/none.pem: cannot be read and is not used" in done.stderr


@pytest.mark.parametrize("transport", ["lean", "session"])
async def test_a_whole_azure_uri(tmp_path: Path, llmblast: RunLlmblast, transport: str) -> None:
    """It goes to exactly that path, with its query; the proxy shows what was asked for."""
    uri = "http://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21"
    write_prompts(tmp_path / "prompts.jsonl", 1)
    async with HttpProxy(refuses="404 Not Found") as proxy:
        await asyncio.to_thread(
            llmblast,
            *("run", "prompts.jsonl", "--transport", transport),
            *("-u", f"{uri},proxy=127.0.0.1:{proxy.port},key_env=CANARY_KEY"),
        )

    assert set(proxy.asked) == {f"POST {uri} HTTP/1.1"}
    assert f"api-key: {CANARY}\r\n" in proxy.heads[0]


FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "unicode": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "percent": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "entities": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "base64": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [200, 400])
def test_a_key_that_comes_back_escaped(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, form: str, status: int
) -> None:
    """In an answer and in an error: no file and no message has it in that form, and the rest is told."""
    shown = FORMS[form](CANARY)
    answer = '{"choices":[{"message":{"content":"the key is %s, they say"},"finish_reason":"stop"}]}'
    error = '{"error":{"message":"the key is %s, they say","type":"invalid_request_error"}}'
    body = ((answer if status == 200 else error) % shown).encode()
    server = start_mock(script=lambda index, sent: ScriptedReply(status, body))
    write_prompts(tmp_path / "prompts.jsonl", 2)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-v", "--json", "--body", "always")

    written = texts_below(tmp_path)
    assert shown not in done.stdout + done.stderr + written
    assert canary_places([tmp_path]) == []
    assert "the key is (hidden), they say" in (written if status == 200 else done.stderr)
    if status == 200:
        assert orjson.loads((tmp_path / "save.jsonl").read_bytes().splitlines()[0])["response"].endswith("they say")
