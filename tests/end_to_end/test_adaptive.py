"""Limits that nobody named, as the server sees them, and what a run tells of those that somebody did name."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import RunLlmblast, StartMock, records, write_prompts

UNNAMED = "rps=100&latency=0.02&policy=fixed"
LINES = 1200
WARM_S = 2.0
"""From the third second on the rate has been found."""


def accepted_per_second(server: MockServer) -> float:
    """What the server took each second, from the third one to its last arrival."""
    moments = sorted(arrival.arrived_s for arrival in server.ledger if arrival.status == 200)
    warm_s = min(arrival.arrived_s for arrival in server.ledger) + WARM_S
    return sum(moment >= warm_s for moment in moments) / (moments[-1] - warm_s)


def summary_of(stdout: str) -> dict[str, Any]:
    values: dict[str, Any] = orjson.loads(stdout)
    return values


def test_a_rate_that_nobody_named_is_found(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """100 a second, told by push-back only: every line is answered, few sends are in vain, the rate is used."""
    server = start_mock(UNNAMED)
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == LINES
    assert 0 < server.rejected <= 0.15 * len(server.ledger)
    assert accepted_per_second(server) >= 85


def test_adaptive_may_be_turned_off(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Then all 256 slots are open from the start, and each window begins with a crowd that fills it at once."""
    server = start_mock(UNNAMED)
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = llmblast("run", "prompts.jsonl", "-u", f"{server.url},adaptive=false", "--json")

    assert done.returncode == 0, done.stderr
    assert server.most_in_flight > 64
    assert server.rejected > 0.15 * len(server.ledger)
    assert not any("learned" in name for name in summary_of(done.stdout)["waited_s"])


def test_the_timeline_ends_with_the_totals_of_the_summary(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """A line a second, all of them whole, never falling."""
    server = start_mock("rps=100&latency=0.02&errors=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 250)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--timeline", "t.jsonl", "--json")

    assert done.returncode == 0, done.stderr
    lines, summary = records(tmp_path / "t.jsonl"), summary_of(done.stdout)
    assert len(lines) >= 3
    for name in ("t", "sent", "done", "succeeded", "retries", "rate_limited", "tokens"):
        series = [line[name] for line in lines]
        assert series == sorted(series)
    last = lines[-1]
    assert (last["in_flight"], last["queued"]) == (0, 0)
    assert {name: last[name] for name in ("sent", "retries", "rate_limited")} == {
        name: summary["requests"][name] for name in ("sent", "retries", "rate_limited")
    }
    assert (last["succeeded"], last["failed"]) == (summary["lines"]["answered"], summary["lines"]["failed"])
    assert last["tokens"] == summary["tokens"]["prompt"] + summary["tokens"]["completion"]
    assert last["sent"] == len(server.ledger) == sum(endpoint["sent"] for endpoint in last["endpoints"])


def test_a_timeline_that_would_overwrite_something_else_is_refused(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Before anything is sent."""
    server = start_mock()
    prompts = write_prompts(tmp_path / "prompts.jsonl", 5).read_bytes()

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--timeline", "prompts.jsonl")

    assert done.returncode != 0
    assert "--timeline prompts.jsonl" in done.stderr
    assert (tmp_path / "prompts.jsonl").read_bytes() == prompts
    assert server.ledger == []


@pytest.mark.parametrize("level", ["run", "endpoint"])
def test_the_summary_tells_how_far_a_limit_was_used(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, level: str
) -> None:
    """20 a second are asked for and used nearly in full, as text and as values.

    At a higher rate the cost of tracing each line for coverage would count.
    """
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", 60)
    flags = ("-u", server.url, "--rps", "20") if level == "run" else ("-u", f"{server.url},name=gpu,rps=20")
    name = "run rps" if level == "run" else "gpu rps"

    done = llmblast("run", "prompts.jsonl", *flags, "--json")

    assert done.returncode == 0, done.stderr
    used_line = next(line for line in done.stderr.splitlines() if line.startswith("limits "))
    shown = "--rps" if level == "run" else name
    assert f"{shown} 9" in used_line or f"{shown} 100 %" in used_line
    used = orjson.loads(done.stdout)["used"]
    assert list(used) == [name]
    assert 0.95 <= used[name] <= 1.01
