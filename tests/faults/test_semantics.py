"""What providers mean: lines that they will never take, keys and money that are refused, outages, storms of errors.

Real processes on both sides. The checker judges the files and the provider's ledger; the ledger alone says what was
sent how often, and when.
"""

import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.answers import Answer
from llmblast.mocking.faults import FAULTS
from llmblast.mocking.incident import Incident
from llmblast.mocking.server import Arrival, ScriptedReply
from llmblast.scheduling.refusals import MIN_BLAMED_SHARE, PROBES
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, write_requests
from tests.faults.checker import check
from tests.processes import let_run, start_run

IN_FLIGHT = 200
HANG_S = 120
RETRY_SHARE, RETRIES_PER_S, RETRIES_SAVED = 0.2, 10.0, 10
BACK_AT_WORK_S = 35.0
_NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 seconds: closing sends a reset. Source: socket(7)."""

RecordProperty = Callable[[str, object], None]


def reply_of(kind: str) -> ScriptedReply:
    """What the mock provider says when it commits this fault."""
    return FAULTS[kind](Incident(Answer(b""), 0.0))


def write_questions(tmp_path: Path, count: int) -> None:
    write_requests(tmp_path / "prompts.jsonl", (f"Question {number}?" for number in range(count)))


def complaints(tmp_path: Path, *ledgers: str, most_sends: int, lost: int = 0) -> list[str]:
    paths = (tmp_path / f"{name}.jsonl" for name in ("prompts", "save", "errors", *(ledgers or ("ledger",))))
    return check(*paths, most_sends=most_sends, lost=lost)


class Refusal:
    """A provider that refuses everything from one request on, until it is told to accept again."""

    def __init__(self, kind: str, first: int) -> None:
        self.is_on = True
        self._kind = kind
        self._first = first

    def script(self, index: int, body: bytes) -> ScriptedReply | None:
        return reply_of(self._kind) if self.is_on and index >= self._first else None


def test_lines_that_a_provider_never_takes_are_sent_once(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """A thousand that draw a 400 for their own content each time: a thousand requests, a thousand error records, exit
    code 3.
    """
    too_long = ScriptedReply(400, b'{"error":{"message":"too long","code":"context_length_exceeded"}}')
    server = start_mock(f"latency=0.01&ledger={tmp_path / 'ledger.jsonl'}", script=lambda index, body: too_long)
    write_questions(tmp_path, 1000)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", str(IN_FLIGHT))

    assert done.returncode == 3, done.stderr
    assert server.received == 1000
    assert len(records(tmp_path / "errors.jsonl")) == 1000
    assert complaints(tmp_path, most_sends=1) == []


@pytest.mark.parametrize(
    "kind", ["401", "429-no-quota", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("402", "403"))]
)
def test_a_refusal_in_the_middle_costs_no_line(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, kind: str
) -> None:
    """Little more than what is in flight still goes out, no line is given up, and once it is over the same command
    completes.
    """
    refusal = Refusal(kind, first=400)
    server = start_mock(f"latency=0.05&ledger={tmp_path / 'ledger.jsonl'}", script=refusal.script)
    write_questions(tmp_path, 800)
    arguments = ("run", "prompts.jsonl", "-u", server.url, "-j", str(IN_FLIGHT))

    refused = llmblast(*arguments)
    in_vain = server.received - 400
    failed = records(tmp_path / "errors.jsonl")
    refusal.is_on = False
    done = llmblast(*arguments)

    assert refused.returncode == 77, refused.stderr
    assert "all endpoints rejected the requests" in refused.stderr
    assert failed == []
    assert 0 < in_vain <= (1 + MIN_BLAMED_SHARE) * IN_FLIGHT + PROBES + 1
    assert done.returncode == 0, done.stderr
    assert server.received == 800 + in_vain
    assert complaints(tmp_path, most_sends=2) == []


@pytest.mark.parametrize(
    "kind", ["401", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("402", "403", "429-no-quota"))]
)
def test_an_endpoint_that_begins_to_refuse_leaves_its_lines_to_the_other(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, kind: str
) -> None:
    """It is asked no more, and every line is answered."""
    refusing, other = (
        start_mock(f"latency=0.05&ledger={tmp_path / name}.jsonl", script=script)
        for name, script in (("refusing", Refusal(kind, first=200).script), ("other", None))
    )
    write_questions(tmp_path, 800)

    done = llmblast("run", "prompts.jsonl", "-u", refusing.url, "-u", other.url, "-j", str(IN_FLIGHT))

    assert done.returncode == 0, done.stderr
    assert 200 < refusing.received <= 200 + IN_FLIGHT
    assert other.received == 600
    assert complaints(tmp_path, "refusing", "other", most_sends=2) == []


@contextmanager
def mock_process(port: int, ledger: Path, environment: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A mock provider that can be killed, and its port."""
    command = [*LLMBLAST, "mock", "--port", str(port), "--latency", "0.05", "--ledger", str(ledger)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline().rpartition(":")[2].removesuffix("/v1\n"))
        finally:
            process.kill()


@contextmanager
def nobody(port: int) -> Iterator[None]:
    """The port is closed: connections are refused."""
    yield


@contextmanager
def resetting(port: int) -> Iterator[None]:
    """Connections are accepted and reset, as by a balancer with nobody behind it."""

    def reset_all() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # it was shut down
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            connection.close()

    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        thread = threading.Thread(target=reset_all)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def received(ledger: Path) -> list[float]:
    """The moments of all requests in a ledger, which may have half a line at its end while it is written."""
    entries = map(orjson.loads, ledger.read_bytes().rpartition(b"\n")[0].splitlines())
    return [entry["at"] for entry in entries if entry["event"] == "received"]


@pytest.mark.parametrize(
    ("meanwhile", "down_s"),
    [
        (nobody, 2.0),
        (resetting, 0.3),
        *(pytest.param(meanwhile, 60.0, marks=pytest.mark.long) for meanwhile in (nobody, resetting)),
    ],
)
def test_an_outage_of_all_endpoints_is_waited_for(
    tmp_path: Path,
    environment: dict[str, str],
    record_property: RecordProperty,
    meanwhile: Callable[[int], AbstractContextManager[None]],
    down_s: float,
) -> None:
    """No line is given up, sending begins again at most 35 s after they are back, and every line is answered once."""
    write_questions(tmp_path, 3000)
    with ExitStack() as stack:
        first, port = stack.enter_context(mock_process(0, tmp_path / "first.jsonl", environment))
        arguments = ("-u", f"http://127.0.0.1:{port}/v1", "-j", str(IN_FLIGHT))
        run = stack.enter_context(start_run(tmp_path, environment, "prompts.jsonl", *arguments))
        stack.callback(run.kill)
        while len(received(tmp_path / "first.jsonl")) < 1000:
            let_run(run, 0.01)
            assert run.poll() is None, "the run was over too early"
        first.kill()
        first.wait()
        with meanwhile(port):
            let_run(run, down_s)
        stack.enter_context(mock_process(port, tmp_path / "second.jsonl", environment))
        back_s = time.monotonic()
        _, stderr = run.communicate(timeout=HANG_S)

    idle_s = received(tmp_path / "second.jsonl")[0] - back_s
    record_property("seconds until sending began again", idle_s)
    assert run.returncode == 0, stderr
    assert records(tmp_path / "errors.jsonl") == []
    assert idle_s <= BACK_AT_WORK_S
    # What the first one answered when it was killed may not have arrived.
    assert complaints(tmp_path, "first", "second", most_sends=2, lost=IN_FLIGHT) == []


class Storm:
    """Every reply is the same error for a time that begins with the thousandth request."""

    def __init__(self, kind: str, seconds: float) -> None:
        self._kind = kind
        self._seconds = seconds
        self._begun_s = 0.0

    def script(self, index: int, body: bytes) -> ScriptedReply | None:
        if index < 1000:
            return None
        now = time.monotonic()
        self._begun_s = self._begun_s or now
        return reply_of(self._kind) if now < self._begun_s + self._seconds else None


def repeated(arrivals: list[Arrival], start_s: float, end_s: float) -> tuple[int, int]:
    """First sends, and sends of a body that had been sent before, within that time."""
    seen: set[bytes] = set()
    counts = [0, 0]
    for arrival in arrivals:
        if start_s <= arrival.arrived_s < end_s:
            counts[arrival.body in seen] += 1
        seen.add(arrival.body)
    return counts[0], counts[1]


@pytest.mark.parametrize(
    ("kind", "storm_s"),
    [
        ("503-retry-after", 1.5),
        *(pytest.param(kind, 30.0, marks=pytest.mark.long) for kind in ("500", "503", "503-retry-after", "closed")),
    ],
)
def test_a_storm_is_not_answered_with_repetitions(
    tmp_path: Path,
    start_mock: StartMock,
    llmblast: RunLlmblast,
    record_property: RecordProperty,
    kind: str,
    storm_s: float,
) -> None:
    """Sends that repeat stay within a fifth of the first ones and ten a second, and no line is lost. Only what may have
    been paid for twice is given up, as ever.
    """
    ledger = tmp_path / "ledger.jsonl"
    server = start_mock(f"latency=0.05&ledger={ledger}", script=Storm(kind, storm_s).script)
    write_questions(tmp_path, 2500)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", str(IN_FLIGHT))

    begun_s = server.ledger[1000].arrived_s
    first_sends, repetitions = repeated(server.ledger[1000:], begun_s, begun_s + storm_s)
    record_property("first sends", first_sends)
    record_property("repetitions", repetitions)
    failed = records(tmp_path / "errors.jsonl")
    record_property("given up", len(failed))
    assert done.returncode == (3 if failed else 0), done.stderr
    assert {record["maybe_billed"] for record in failed} <= ({2} if kind == "closed" else set())
    assert repetitions <= RETRY_SHARE * first_sends + RETRIES_PER_S * storm_s + RETRIES_SAVED
    # What is turned away once a second is no attempt.
    assert complaints(tmp_path, most_sends=6 + int(storm_s)) == []
