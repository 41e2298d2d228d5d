"""Warm prefixes and the flex tier, from the command line to the wire."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import RunLlmblast, StartMock, records
from tests.end_to_end.scripted_server import Asked, Said, ScriptedServer, answer, error

GROUPS, LINES = 5, 200
SYSTEMS = [f"You know all about topic {group} and answer in one word. " * 300 for group in range(GROUPS)]


def write_groups(path: Path, *, interleaved: bool) -> None:
    groups = [n % GROUPS if interleaved else n * GROUPS // LINES for n in range(LINES)]
    lines = [{"system": SYSTEMS[group], "input": f"question {n}", "topic": group} for n, group in enumerate(groups)]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def run_json(llmblast: RunLlmblast, *arguments: str) -> dict[str, Any]:
    done = llmblast("run", "prompts.jsonl", "--json", "--progress", "none", *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = orjson.loads(done.stdout)
    return told


@pytest.mark.parametrize("interleaved", [True, False])
def test_nearly_all_of_what_can_be_cached_is(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, interleaved: bool
) -> None:
    """One line of each group reads its prefix, all others find it in the cache."""
    server = start_mock("cache=1&latency=0.1")
    write_groups(tmp_path / "prompts.jsonl", interleaved=interleaved)

    told = run_json(llmblast, "-u", server.url, "-j", "64", "--price-in", "1", "--price-cached", "0.1")

    share = told["tokens"]["cached"] / told["tokens"]["prompt"]
    assert share >= 0.95 * (LINES - GROUPS) / LINES
    assert told["cost"]["saved"]["cache"] == pytest.approx(told["tokens"]["cached"] * 0.9e-6, rel=1e-3)


def test_a_field_makes_the_groups(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Where it is named, the prompts are not looked at."""
    server = start_mock("latency=0.1")
    write_groups(tmp_path / "prompts.jsonl", interleaved=True)

    run_json(llmblast, "-u", f"{server.url},adaptive=false", "-j", "64", "--warm-prefix", "topic")

    assert len(records(tmp_path / "save.jsonl")) == LINES
    first = [arrival.body for arrival in list(server.ledger)[:GROUPS]]
    assert all(any(system.encode() in body for body in first) for system in SYSTEMS)


def test_a_group_goes_on_after_its_first_line_failed(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The refused line has its error, all others their answers."""
    write_groups(tmp_path / "prompts.jsonl", interleaved=True)

    def script(asked: Asked) -> Said:
        if asked.text in ("question 0", "question 1"):
            return error(400, "this prompt is not allowed", type="invalid_request_error", code="content_policy")
        return answer(after_s=0.01)

    with ScriptedServer(script).running() as server:
        done = llmblast("run", "prompts.jsonl", "-u", server.url, "-m", "m", "-j", "64", "--progress", "none")

    assert done.returncode == 3, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == LINES - 2
    assert len(records(tmp_path / "errors.jsonl")) == 2


def test_system_messages_are_marked_for_the_cache_where_asked(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Anthropic keeps nothing else."""
    server = start_mock("cache=1&latency=0.05")
    write_groups(tmp_path / "prompts.jsonl", interleaved=True)
    url = f"{server.url.removesuffix('/v1')}/v1/messages"

    plain = run_json(llmblast, "-u", url, "-m", "m", "-j", "32")
    marked = run_json(llmblast, "-u", url, "-m", "m", "-j", "32", "--cache-control", "--overwrite")

    assert plain["tokens"]["cached"] == 0
    assert marked["tokens"]["cached"] / marked["tokens"]["prompt"] >= 0.9 * (LINES - GROUPS) / LINES


def test_lines_that_can_wait_use_the_flex_tier_and_wait_for_its_capacity(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A refusal for want of capacity counts neither against the line nor against the limits."""
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"input":"line {n}"}}\n' for n in range(20)))
    refused: set[str] = set()

    def script(asked: Asked) -> Said:
        if asked.tier == "flex" and asked.text.endswith("5") and asked.text not in refused:
            refused.add(asked.text)
            return error(429, "Flex has no resources now", code="resource_unavailable")
        return answer()

    with ScriptedServer(script).running() as server:
        told = run_json(llmblast, "-u", server.url, "-m", "m", "--defer", "flex", "--price-in", "2", "--price-out", "8")

    assert {asked.tier for asked in server.asked} == {"flex"}
    assert len(server.asked) == 22
    assert told["requests"]["rate_limited"] == 0
    assert told["cost"]["saved"]["flex"] == pytest.approx(told["cost"]["total"])
    assert {record["via"] for record in records(tmp_path / "save.jsonl")} == {"flex"}


def test_where_the_model_has_no_flex_tier_lines_go_in_the_standard_tier(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """That is said once."""
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"input":"line {n}"}}\n' for n in range(20)))

    def script(asked: Asked) -> Said:
        if asked.tier == "flex":
            return error(400, "Invalid service_tier argument", type="invalid_request_error", param="service_tier")
        return answer()

    with ScriptedServer(script).running() as server:
        done = llmblast(
            "run", "prompts.jsonl", "-u", server.url, "-m", "m", "--defer", "flex", "-j", "2", "--progress", "none"
        )

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no flex tier") == 1
    assert all("via" not in record for record in records(tmp_path / "save.jsonl"))
