"""Outages: an endpoint that answers nothing any more is waited for and probed; lines are not spent on it."""

import re
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records, write_prompts

LINES = 600
OUTAGE_S = 2.5


@pytest.mark.parametrize(("kind", "sends_a_line"), [("500", 1), ("503", 1), ("broken", 3), ("no JSON", 1)])
def test_no_line_is_lost_in_an_outage(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, kind: str, sends_a_line: int
) -> None:
    """For 2.5 s every reply is an error: the run waits, probes, goes on, and has an answer for every line. A kept
    connection that breaks at once is no failure: what was on it is sent again before anything is known.
    """
    failing = {
        "500": ScriptedReply(500, b"{}"),
        "503": ScriptedReply(503, b"{}"),
        "broken": ScriptedReply(break_connection=True),
        "no JSON": ScriptedReply(200, b"<html>Bad gateway</html>"),
    }[kind]
    moments = list[float]()

    def fail_for_a_time(index: int, body: bytes) -> ScriptedReply | None:
        if index < 200:
            return None
        moments.append(time.monotonic())
        return failing if moments[-1] < moments[0] + OUTAGE_S else None

    server = start_mock("latency=0.02", script=fail_for_a_time)
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "40")

    assert done.returncode == 0, done.stderr
    assert sorted(record["line"] for record in records(tmp_path / "save.jsonl")) == list(range(1, LINES + 1))
    in_vain = sum(moment < moments[0] + OUTAGE_S for moment in moments)
    assert in_vain <= sends_a_line * (40 + 10 + 5)


def test_why_an_endpoint_is_out_is_told(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """In the summary of a run that was stopped before any line had failed."""
    server = start_mock(script=lambda index, body: ScriptedReply(500, b'{"error":{"message":"a disk is full"}}'))
    write_prompts(tmp_path / "prompts.jsonl", 20)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--max-time", "1.5")

    assert done.returncode == 5
    assert re.search(r"failing, (next try in \d+ s|trying now): HTTP 500: a disk is full", done.stderr)


def test_a_429_without_money_is_a_429(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """It takes the endpoint out instead of pausing it, and is counted as what it is."""
    spent = b'{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}'
    server = start_mock(script=lambda index, body: ScriptedReply(429, spent))
    write_prompts(tmp_path / "prompts.jsonl", 20)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "4", "--json")

    summary = orjson.loads(done.stdout)
    assert done.returncode == 77
    assert summary["requests"]["rate_limited"] == summary["endpoints"][0]["rate_limited"] == server.received
    assert summary["endpoints"][0]["errors"] == summary["requests"]["retries"] == 0


def test_lines_that_nobody_can_digest_end_by_their_attempts(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Eight of 200 lines draw a 500 each time: eight records, five requests each, and the rest is answered."""

    def choke(index: int, body: bytes) -> ScriptedReply | None:
        return ScriptedReply(500, b"{}") if b"Question 5" in body and b"Question 5?" not in body else None

    server = start_mock("latency=0.01", script=choke)
    write_prompts(tmp_path / "prompts.jsonl", 58)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "4")

    assert done.returncode == 3, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 50
    assert [record["attempts"] for record in records(tmp_path / "errors.jsonl")] == [5] * 8
    assert sorted(Counter(arrival.body for arrival in server.ledger).values()) == [1] * 50 + [5] * 8


def test_retries_stay_below_their_share_in_a_storm(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Two of three replies are errors, for good: the sends that repeat stay within a fifth, ten a second and what the
    answers earn.
    """

    def storm(index: int, body: bytes) -> ScriptedReply | None:
        return ScriptedReply(500, b"{}") if index % 3 else None

    server = start_mock("latency=0.01", script=storm)
    write_prompts(tmp_path / "prompts.jsonl", 2000)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "64", "--max-time", "4", "--json")

    assert done.returncode in (3, 5), done.stderr
    first_sends = len({arrival.body for arrival in server.ledger})
    answers = orjson.loads(done.stdout)["lines"]["answered"]
    seconds = server.ledger[-1].arrived_s - server.ledger[0].arrived_s
    assert len(server.ledger) - first_sends <= 0.2 * first_sends + answers + 10 * seconds + 11
