"""A set rate as the strictest server sees it: no interval is too short, from the first request on."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from tests.conftest import RunLlmblast, write_prompts
from tests.end_to_end.strict_server import LimitReq

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's moments of arrival are Linux's")


@dataclass
class Strict:
    """A strict server, and when what came, once it has ended."""

    url: str
    ledger: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        return sum(status == 429 for _, status in self.ledger)

    @property
    def shortest_interval_s(self) -> float:
        return min(later - earlier for (earlier, _), (later, _) in pairwise(self.ledger))


@contextmanager
def strict_server(per_second: float) -> Iterator[Strict]:
    command = (sys.executable, Path(__file__).with_name("strict_server.py"), str(per_second))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        strict = Strict(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        try:
            yield strict
        finally:
            process.stdin.close()
            strict.ledger = orjson.loads(process.stdout.readline())


@pytest.mark.parametrize(("flag", "amount", "per_second", "lines"), [("--rps", 20, 20, 100), ("--rpm", 300, 5, 20)])
@pytest.mark.parametrize("transport", ["lean", "session"])
def test_nothing_is_rejected(
    tmp_path: Path, llmblast: RunLlmblast, flag: str, amount: int, per_second: float, lines: int, transport: str
) -> None:
    """Twenty a second and three hundred a minute, which nginx counts as five a second."""
    write_prompts(tmp_path / "prompts.jsonl", lines)

    with strict_server(per_second) as server:
        done = llmblast("run", "prompts.jsonl", "-u", server.url, flag, str(amount), "--transport", transport)

    assert done.returncode == 0, done.stderr
    assert server.rejected == 0
    assert len(server.ledger) == lines
    assert server.shortest_interval_s >= 1 / per_second


def test_the_server_of_these_tests_is_strict() -> None:
    """At 20 a second, what comes after 49 ms is rejected, and what is rejected is not counted."""
    limit = LimitReq(20)

    admitted = [limit.admits(now_ms) for now_ms in (1000, 1049, 1050, 1099, 1101, 1150, 1151)]

    assert admitted == [True, False, True, False, True, False, True]
