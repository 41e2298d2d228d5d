"""The processes of `scripts/bench limits`: mock providers that write ledgers, and runs of the client.

Run as a script, this is one mock.
"""

import argparse
import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import orjson
from bench_runs import LLMBLAST, WORK, write_prompts
from bench_table import FailedRunError

from llmblast.cli.loop import run_loop
from llmblast.errors import ExitCode
from llmblast.mocking.server import MockServer, ScriptedReply
from llmblast.mocking.settings import MockSettings

SAVE = WORK / "limits-save.jsonl"
LONGEST_S = 300.0
"""No run of the client takes longer: one that hangs must not hang the measurement."""
_ledger_numbers = count()


class Arrival(NamedTuple):
    """One request as the server saw it; `in_flight` counts it too."""

    at_s: float
    status: int
    in_flight: int


class Answer(NamedTuple):
    """One record of the client's save file."""

    line: int
    latency_s: float
    prompt_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Ledger:
    """What one server, or several together, saw; in order of arrival. Moments count from the first one."""

    arrivals: Sequence[Arrival]

    def after(self, seconds: float) -> "Ledger":
        """What came later than so many seconds after the first."""
        return Ledger([arrival for arrival in self.arrivals if arrival.at_s - self.arrivals[0].at_s >= seconds])

    @property
    def accepted(self) -> Sequence[float]:
        """When those came that were let in."""
        return [arrival.at_s for arrival in self.arrivals if arrival.status == 200]

    @property
    def rejected(self) -> int:
        """How many were answered with a 429."""
        return sum(arrival.status == 429 for arrival in self.arrivals)

    @property
    def accepted_per_s(self) -> float:
        """Between the first and the last there is one interval less than there are requests."""
        moments = self.accepted
        return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0

    @property
    def most_in_a_second(self) -> int:
        """The most arrivals in any moving second."""
        most = first = 0
        for last, arrival in enumerate(self.arrivals):
            while arrival.at_s - self.arrivals[first].at_s >= 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most


def merged(mocks: Sequence["Mock"]) -> Ledger:
    """What several servers saw together."""
    return Ledger(sorted(arrival for mock in mocks for arrival in mock.ledger.arrivals))


class Mock:
    """A mock provider in a process of its own. `pause` is (index, seconds): a request that gets a 429 with retry-after.

    Raises FailedRunError when it does not start.
    """

    def __init__(self, query: str, pause: tuple[int, float] | None = None) -> None:
        self.ledger = Ledger([])
        """Filled when it stops."""
        self.started_s = 0.0
        self.url = ""
        self._options = [query, *(("--pause", *map(str, pause)) if pause else ())]
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, the second time on the port that it had."""
        self._ledger_path = WORK / f"ledger-{next(_ledger_numbers)}.json"
        where = ("--port", str(self._port), "--ledger", str(self._ledger_path))
        command = (sys.executable, __file__, *self._options, *where)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.started_s = time.monotonic()
        if not self.url:
            self.kill()
            raise FailedRunError(f"the mock provider did not start: {' '.join(command)}")
        self._port = int(self.url.rpartition(":")[2].partition("/")[0])

    def kill(self) -> None:
        """Ends it as a crash would: nothing is answered, and what it saw is lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it and reads its ledger."""
        if self._process is None:
            return
        self._end(signal.SIGTERM)
        arrivals = (Arrival(*values) for values in orjson.loads(self._ledger_path.read_bytes()))
        self.ledger = Ledger(sorted(arrivals))
        self._ledger_path.unlink()

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.communicate()
        self._process = None


@contextmanager
def serving(*queries: str, pause: tuple[int, float] | None = None) -> Iterator[list[Mock]]:
    """One mock for each query, stopped at the end; `pause` is the first one's."""
    mocks: list[Mock] = []
    try:
        for query in queries:
            mocks.append(Mock(query, None if mocks else pause))
        yield mocks
    finally:
        for mock in mocks:
            mock.stop()


async def serve(query: str, port: int, pause: tuple[int, float] | None) -> list[tuple[float, int, int]]:
    """The mock's side: prints its URL, serves until SIGTERM and returns what it saw."""

    def pause_once(index: int, body: bytes) -> ScriptedReply | None:
        if pause is None or index != pause[0]:
            return None
        return ScriptedReply(429, b"{}", {"retry-after": f"{pause[1]:g}"})

    # A collection that walks through a growing ledger stops the server for some ms, and even arrivals would look uneven
    # to its limits.
    gc.disable()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    script = pause_once if pause else None
    async with MockServer(MockSettings.from_query(query), port=port, keep_ledger=True, script=script) as server:
        print(server.url, flush=True)
        await told_to_stop.wait()
    return [(arrival.arrived_s, arrival.status, arrival.in_flight) for arrival in server.ledger]


@dataclass(frozen=True)
class Run:
    """What the client told of itself."""

    summary: Mapping[str, Any]
    answers: Sequence[Answer]

    @property
    def lost(self) -> int:
        """Lines without an answer in the save file."""
        return int(self.summary["lines"]["read"]) - len(self.answers)

    @property
    def broken_off(self) -> int:
        """Sends that were in flight when their connection broke."""
        return int(self.summary["requests"]["maybe_billed"])

    @property
    def p99_s(self) -> float:
        """The latency that one in a hundred exceeds."""
        return quantiles([answer.latency_s for answer in self.answers], n=100)[-1]

    def errors_of(self, name: str) -> int:
        """Sends to an endpoint that were no success, 429s not counted."""
        return next(int(e["errors"]) for e in self.summary["endpoints"] if e["name"] == name)


def run_client(
    prompts: Path,
    *flags: str,
    seconds: float | None = None,
    may_lose: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> Run:
    """Runs `llmblast run` to its end, or for `seconds`. Raises FailedRunError.

    `meanwhile` is called when the process has been started. Without `may_lose` every line must have its answer.
    """
    limits = ("--max-time", f"{seconds or LONGEST_S:g}", "-o", str(SAVE), "--overwrite", "-q", "--json")
    command = (*LLMBLAST, "run", str(prompts), *flags, "-m", "mock", *limits)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            if meanwhile:
                meanwhile()
            out, err = process.communicate(timeout=LONGEST_S + 60)
        except subprocess.TimeoutExpired:
            raise FailedRunError(f"did not end within {LONGEST_S + 60:g} s") from None
        finally:
            process.kill()
    expected = {ExitCode.OK, *([ExitCode.STOPPED] if seconds else []), *([ExitCode.SOME_FAILED] if may_lose else [])}
    if process.returncode not in expected:
        last_words = (err.strip() or "no word").splitlines()[-1]
        raise FailedRunError(f"exit {process.returncode}: {last_words}")
    with SAVE.open("rb") as file:
        return Run(orjson.loads(out), [_answer(orjson.loads(line)) for line in file])


def _answer(record: Mapping[str, Any]) -> Answer:
    usage = record["usage"]
    return Answer(record["line"], record["latency"], usage["prompt_tokens"], usage["total_tokens"])


def write_capped_prompts(lines: int, max_tokens: int) -> Path:
    """A prompt file whose lines name their `max_tokens`."""
    path = WORK / f"prompts-{lines}-{max_tokens}.jsonl"
    rows = [orjson.loads(line) for line in write_prompts(lines).read_bytes().splitlines()]
    path.write_bytes(b"".join(orjson.dumps({**row, "params": {"max_tokens": max_tokens}}) + b"\n" for row in rows))
    return path


def urls(*endpoints: str) -> list[str]:
    """The flags for several endpoints."""
    return [word for endpoint in endpoints for word in ("-u", endpoint)]


def main() -> None:
    """One mock, until SIGTERM; then its ledger is written."""
    parser = argparse.ArgumentParser(description="One mock provider, which writes its ledger when it is told to end.")
    parser.add_argument("query", metavar="QUERY", help="the mock's settings: rps=100&latency=0.05")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ledger", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--pause", nargs=2, metavar=("INDEX", "SECONDS"), help="one request gets a 429 with retry-after"
    )
    options = parser.parse_args()
    pause = (int(options.pause[0]), float(options.pause[1])) if options.pause else None
    options.ledger.write_bytes(orjson.dumps(run_loop(serve(options.query, options.port, pause))))


if __name__ == "__main__":
    main()
