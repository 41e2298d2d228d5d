"""Ways: where prices and a deadline are known, lines that can wait go the cheapest way that makes it."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import RunLlmblast, StartMock, records

PRICES = ("--price-in", "2", "--price-out", "8")
LINES = 12


def write_lines(path: Path, *deadlines: str | None) -> None:
    lines = [{"input": f"line {n}", "priority": "deferred"} for n in range(LINES)]
    for n, line in enumerate(lines):
        if (deadline := deadlines[n % len(deadlines)]) is not None:
            line["deadline"] = deadline
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def run_json(llmblast: RunLlmblast, *arguments: str) -> dict[str, Any]:
    done = llmblast("run", "prompts.jsonl", "-m", "m", "--json", "--progress", "none", *PRICES, *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = orjson.loads(done.stdout)
    return told


def ways_of(path: Path) -> list[str | None]:
    """Return by which way each line was answered, in the order of the lines."""
    return [record.get("via") for record in sorted(records(path), key=lambda record: record["line"])]


def cost_of(path: Path, shares: dict[str | None, float]) -> float:
    """Return what the records say that a run cost, with these shares of the price by way."""
    total = 0.0
    for record in records(path):
        usage = record["usage"]
        total += shares[record.get("via")] * (2e-6 * usage["prompt_tokens"] + 8e-6 * usage["completion_tokens"])
    return total


@pytest.mark.parametrize(
    ("options", "way", "share"),
    [
        pytest.param(("--deadline", "6h", "--batch-price", "0.4"), "batch", 0.4, id="far: by batch"),
        pytest.param(
            ("--deadline", "6h", "--flex-price", "0.25", "--batch-price", "0.5"), "flex", 0.25, id="the cheaper one"
        ),
        pytest.param(
            ("--deadline", "100", "--flex-price", "0.25", "--batch-price", "0.5"), None, 1.0, id="near: directly"
        ),
    ],
)
def test_lines_go_the_cheapest_way_that_makes_the_deadline(
    tmp_path: Path,
    start_mock: StartMock,
    llmblast: RunLlmblast,
    options: tuple[str, ...],
    way: str | None,
    share: float,
) -> None:
    """The records name it, and the summary says what it cost and saved."""
    server = start_mock("latency=0.01&batch_delay=0.1")
    write_lines(tmp_path / "prompts.jsonl", None)

    told = run_json(llmblast, "-u", server.url, *options)

    save = tmp_path / "save.jsonl"
    full = cost_of(save, {way: 1.0})
    assert ways_of(save) == [way] * LINES
    assert told["cost"]["total"] == pytest.approx(share * full, abs=1e-6)
    assert told["cost"]["saved"].get(way, 0.0) == pytest.approx((1.0 - share) * full, abs=1e-6)


def test_each_line_goes_the_way_that_its_own_deadline_allows(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Those of one file may go different ways."""
    server = start_mock("latency=0.01&batch_delay=0.1")
    write_lines(tmp_path / "prompts.jsonl", "60s", "6h", None)

    told = run_json(llmblast, "-u", server.url, "--deadline", "1100s", "--batch-price", "0.5", "--flex-price", "0.5")

    save = tmp_path / "save.jsonl"
    assert ways_of(save) == [None, "batch", "batch"] * (LINES // 3)
    assert told["lines"]["late"] == 0
    assert told["lines"]["batched"] == 8
    assert told["cost"]["total"] == pytest.approx(cost_of(save, {None: 1.0, "batch": 0.5}), abs=1e-6)


def test_what_a_batch_did_not_finish_costs_what_it_costs_directly(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Only the answers that came from it are at its price."""
    server = start_mock("latency=0.01&batch_delay=0.1&batch_expire=0.5")
    write_lines(tmp_path / "prompts.jsonl", None)

    told = run_json(llmblast, "-u", server.url, "--deadline", "400", "--batch-price", "0.5")

    save = tmp_path / "save.jsonl"
    assert set(ways_of(save)) == {None, "batch"}
    assert told["cost"]["total"] == pytest.approx(cost_of(save, {None: 1.0, "batch": 0.5}), abs=1e-6)
