"""Keys stay where they are: in no file, no output, no traceback and no command line, whatever goes wrong."""

import signal
import stat
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

from llmblast.job.redacting_channel import RedactingChannel, secrets_of
from llmblast.mocking.server import ScriptedReply
from llmblast.models import Attempt, Reply, Request
from llmblast.sending import NO_LISTENER, ChannelListener
from tests.conftest import CANARY, LLMBLAST, ROOT, RunLlmblast, StartMock, canary_places, records, write_prompts
from tests.task_channel import TaskChannel

ALL_FAULTS = "latency=0.1&errors=0.1&rate_limited=0.05&broken=0.1&malformed=0.1&retry_after=0.05"
CRASH = """
import llmblast.job.response_handler
from llmblast.cli import main
def judge(*arguments):
    raise RuntimeError("a bug")
llmblast.job.response_handler.judge = judge
main()
"""


class Answering(TaskChannel):
    """A channel that always answers the same."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self._reply = reply

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        return self._reply

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        listener.on_reply(attempt, self._reply)
        return True


def request() -> Attempt:
    return Attempt(Request(1, "0" * 16, b"{}", 1))


def command_lines(process: "subprocess.Popen[bytes]") -> bytes:
    """Of a process and of what it has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, *children))


@pytest.mark.parametrize(
    ("source", "transport"),
    [
        ("", "lean"),
        ("", "session"),
        (",key_env=CANARY_KEY", "lean"),
        (",key_file=key", "lean"),
        (",key_command=printenv CANARY_KEY", "lean"),
    ],
)
def test_a_run_with_every_fault_shows_no_key(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, source: str, transport: str
) -> None:
    """All that can be said is said, in debug mode; the server gets the key, and nobody else does."""
    server = start_mock(ALL_FAULTS)
    write_prompts(tmp_path / "prompts.jsonl", 80)
    (tmp_path / "key").write_text(CANARY)
    telling = ["-v", "--json", "--body", "always", "--timeline", "timeline.jsonl", "-a", "2", "-j", "20"]
    with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*LLMBLAST, "run", "prompts.jsonl", "-u", server.url + source, "--transport", transport, *telling],
            cwd=tmp_path,
            env={**environment, "PYTHONASYNCIODEBUG": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        while server.received < 30:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
        shown = command_lines(process)
        process.send_signal(signal.SIGUSR1)
        process.wait(timeout=60)
    (tmp_path / "key").unlink()

    assert process.returncode in (0, 3), (tmp_path / "stderr").read_text()
    assert all(arrival.has_authorization for arrival in server.ledger)
    assert CANARY.encode() not in shown
    assert CANARY not in repr(server.ledger)
    assert canary_places([tmp_path]) == []


@pytest.mark.parametrize("transport", ["lean", "session"])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
def test_a_gateway_that_repeats_the_key_is_not_repeated(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, status: int, transport: str
) -> None:
    """As LiteLLM does for a wrong one: neither records nor messages have it, and what was wrong is still told."""
    error = orjson.dumps({"error": {"message": f"Received API Key = {CANARY}, expected another", "code": CANARY}})
    server = start_mock(script=lambda index, body: ScriptedReply(status, error, {"retry-after": "0"}))
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast(
        "run", "prompts.jsonl", "-u", server.url, "-a", "2", "-v", "--max-time", "1", "--transport", transport
    )

    assert done.returncode in (3, 5, 77)
    assert "Received API Key = (hidden), expected another" in done.stderr
    assert canary_places([tmp_path]) == []


class EchoServer(ThreadingHTTPServer):
    """Answers every request with an error that repeats its key; those that came with the first key wait for another.

    It says that the line is too long: so every line gets its record, where one refusal after the other would take the
    endpoint out.
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.keys: list[str] = []
        self.has_another = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _EchoHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EchoServer

    def do_POST(self) -> None:
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(key)
        first = self.server.keys[0]
        if key != first:
            self.server.has_another.set()
        assert self.server.has_another.wait(timeout=30)
        body = orjson.dumps({"error": {"message": f"Received API Key = {key}, expected another than {first}"}})
        self.send_response(413)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Writes no log."""


@pytest.fixture
def echo_server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_neither_a_refreshed_key_nor_the_one_before_is_repeated(
    tmp_path: Path, echo_server: EchoServer, llmblast: RunLlmblast, transport: str
) -> None:
    """Every refresh brings another key; a late reply still repeats the first one, and so do replies to later ones."""
    write_prompts(tmp_path / "prompts.jsonl", 40)
    (tmp_path / "key.sh").write_text('echo x >> asked; n=$(wc -l < asked); echo "sk-$n-$CANARY_KEY-$n"\n')
    source = ",key_command=sh key.sh,key_refresh=0.05"
    telling = ["-v", "--json", "--body", "always", "--transport", transport]

    done = llmblast("run", "prompts.jsonl", "-u", echo_server.url + source, "--rps", "40", *telling)

    errors = [record["error"] for record in records(tmp_path / "errors.jsonl")]
    assert done.returncode == 3, done.stderr
    assert len(set(echo_server.keys)) > 2
    assert all(CANARY in key for key in echo_server.keys)
    assert len(errors) == 40
    assert all("Received API Key = (hidden), expected another than (hidden)" in error for error in errors)
    assert canary_places([tmp_path]) == []


def test_a_key_that_follows_a_word_which_is_none_is_not_repeated(
    tmp_path: Path, echo_server: EchoServer, llmblast: RunLlmblast
) -> None:
    """`EMPTY` is what local servers are given; it is told, and the key that a refresh brings is not."""
    write_prompts(tmp_path / "prompts.jsonl", 20)
    (tmp_path / "key.sh").write_text('test -e first && echo "$CANARY_KEY" || echo EMPTY; touch first\n')
    source = ",key_command=sh key.sh,key_refresh=0.05"

    done = llmblast("run", "prompts.jsonl", "-u", echo_server.url + source, "--rps", "40", "-v")

    assert done.returncode == 3, done.stderr
    assert set(echo_server.keys) == {"EMPTY", CANARY}
    assert "Received API Key = (hidden), expected another than EMPTY" in done.stderr
    assert canary_places([tmp_path]) == []


async def test_an_answer_is_left_as_it_is() -> None:
    """A local server's key may be a word that its model uses."""
    body = b'{"choices":[{"message":{"content":"password"}}]}'

    reply = await RedactingChannel(Answering(Reply(200, body=body)), secrets_of("password", {})).send(request())

    assert reply.body == body


@pytest.mark.parametrize(
    ("key", "body", "shown"),
    [
        ("sk-do-not-show-me", b'{"content":"sk-do-not-show-me"}', b'{"content":"(hidden)"}'),
        ("sk-do-not-show-me", b'{"content":"sk\\u002ddo-not-show-me"}', b'{"content":"(hidden)"}'),
        ("sk-do-not-show-me", b'{"content":"QmVhcmVyIHNrLWRvLW5vdC1zaG93LW1l!"}', b'{"content":"(hidden)!"}'),
        ("correcthorse", b'{"content":"correcthorse"}', b'{"content":"correcthorse"}'),
        ("correcthorse", b'{"error":"correcthorse"}', b'{"error":"(hidden)"}'),
    ],
)
async def test_a_key_in_an_answer(key: str, body: bytes, shown: bytes) -> None:
    """It is hidden where it cannot be a word by chance, or where it is told with an error."""
    reply = await RedactingChannel(Answering(Reply(200, body=body)), secrets_of(key, {})).send(request())

    assert reply.body == shown


def as_answer(text: str) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


def as_stream(*pieces: str) -> bytes:
    chunks = [orjson.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces]
    return b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("transport", ["lean", "session"])
@pytest.mark.parametrize(
    "body",
    [
        as_stream(CANARY[:9], CANARY[9:20], CANARY[20:]),
        as_stream(CANARY.encode().hex()[:9], CANARY.encode().hex()[9:]),
        as_stream(b64encode(CANARY.encode()).decode()[:7], b64encode(CANARY.encode()).decode()[7:]),
        orjson.dumps({"choices": [{"message": {"content": CANARY}, "finish_reason": "stop"}]})
        .decode()
        .encode("utf-16"),
        orjson.dumps({"choices": [{"message": {"content": CANARY.encode().hex()}, "finish_reason": "stop"}]}),
        orjson.dumps({"choices": [{"message": {"content": CANARY.encode().hex().upper()}, "finish_reason": "stop"}]}),
    ],
    ids=["stream", "stream of hex", "stream of base64", "UTF-16", "hex", "upper hex"],
)
def test_an_answer_in_pieces_or_in_another_encoding_shows_no_key(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, body: bytes, transport: str
) -> None:
    """It is searched once more as it is read: the bytes that came do not hold the key in one piece."""
    server = start_mock(script=lambda index, request: ScriptedReply(200, body))
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--body", "always", "--transport", transport)

    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "save.jsonl")[0]["response"] == "(hidden)"
    assert canary_places([tmp_path]) == []


async def test_a_key_in_headers_and_in_what_is_told_of_a_reply() -> None:
    """A server may name it anywhere."""
    error = Reply(302, {b"location": b"https://h/?key=sk-do-not%2Dshow-me"}, detail="is encoded as sk-do-not-show-me")
    answer = Reply(200, detail="is encoded as sk-do-not-show-me")
    secrets = secrets_of("sk-do-not-show-me", {})

    for reply in (error, answer):
        assert (await RedactingChannel(Answering(reply), secrets).send(request())).detail == "is encoded as (hidden)"
    assert error.headers[b"location"] == b"https://h/?key=(hidden)"


def test_the_password_of_a_proxy_counts_as_a_secret() -> None:
    """Even a short one."""
    assert secrets_of("EMPTY", {}, ["short"]) == [b"short"]


def test_what_counts_as_a_secret() -> None:
    """The key, and what stands in headers whose names tell; longer ones go first, lest a part of them be left."""
    headers = {
        "api-key": "abcdefgh",
        "Authorization": "Basic abcdefghi",
        "X-Organization": "organization",
        "X-Key": "x",
    }

    assert secrets_of("sk-1234567", headers) == [b"sk-1234567", b"abcdefghi", b"abcdefgh"]
    assert secrets_of("EMPTY", {}) == secrets_of(None, {}) == []


def test_replaced_keys_stay_hidden() -> None:
    """The longest first, in whichever order they came; beyond a thousand the oldest are forgotten, the first is not."""
    reply = Reply(401, body=b"the-first-key key-number-0 key-number-2 key-number-1001 EMPTY")
    told: list[bytes] = []
    redacting = RedactingChannel(Answering(reply), secrets_of("the-first-key", {}))
    keys = [f"key-number-{number}" for number in range(1002)]

    for key in ("EMPTY", *keys, keys[-1]):
        redacting.set_key(key)
    redacting.start(request(), ChannelListener(on_reply=lambda attempt, reply: told.append(reply.body)))

    assert told == [b"(hidden) key-number-0 (hidden) (hidden) EMPTY"]


@pytest.mark.pure
def test_a_traceback_has_no_key(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """A bug of ours is told with where it is, not with what was there."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    arguments = ["run", "prompts.jsonl", "-u", start_mock().url]

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", CRASH, *arguments],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "RuntimeError: a bug" in done.stderr
    assert CANARY not in done.stderr + done.stdout
    assert canary_places([tmp_path]) == []


def test_a_key_in_place_of_its_name_is_not_repeated(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A likely slip in a configuration file."""
    config = tmp_path.parent / f"{tmp_path.name}.toml"
    config.write_text(f'[[endpoints]]\nurl = "https://gpu.example/v1"\nkey_env = "{CANARY}"\n')
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-c", str(config))
    config.unlink()

    assert done.returncode == 2
    assert "key_env takes the name of a variable, and its value is not one" in done.stderr


@pytest.mark.parametrize(("named", "is_sent"), [("", False), (",key_env=CANARY_KEY", True)])
def test_over_plain_http_to_another_machine_only_a_named_key_goes(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, named: str, is_sent: bool
) -> None:
    """To name a key for an endpoint is to say that it may go there; 127.0.0.2 stands for the other machine."""
    server = start_mock(host="127.0.0.2")
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", server.url + named)

    assert done.returncode == 0
    assert [arrival.has_authorization for arrival in server.ledger] == [is_sent] * 3


def test_what_a_run_writes_is_for_its_owner_only(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Unless it was there before: whoever made it decided who may read it."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    (tmp_path / "errors.jsonl").touch()
    (tmp_path / "errors.jsonl").chmod(0o640)

    done = llmblast("run", "prompts.jsonl", "-u", start_mock().url)

    (tmp_path / "prompts.jsonl").unlink()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert done.returncode == 0
    assert len(records(tmp_path / "save.jsonl")) == 3
    assert modes == {"save.jsonl": 0o600, "save.jsonl.settings": 0o600, "errors.jsonl": 0o640}
