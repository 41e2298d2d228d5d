"""Who goes next, as the server sees it: shares of tenants, and slots that deferred lines leave free."""

import subprocess
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import RunLlmblast, StartMock, records
from tests.processes import start_run, wait_for_requests

TENANTS = {"a": 1, "b": 2, "c": 5}


def write_lines_of_tenants(path: Path, counts: dict[str, int], **fields: object) -> None:
    """Lines of the tenants in turn."""
    lines = [
        {"input": f"{tenant} {number}", "tenant": tenant, **fields}
        for number in range(max(counts.values()))
        for tenant, count in counts.items()
        if number < count
    ]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def tenants_of(server: MockServer) -> list[str]:
    """The tenants of the requests in the order of their arrival."""
    return [orjson.loads(arrival.body)["messages"][0]["content"].split()[0] for arrival in server.ledger]


@pytest.mark.parametrize("fields", [{}, {"priority": "deferred"}, {"deadline": "1h"}])
def test_tenants_share_by_their_weights(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, fields: dict[str, object]
) -> None:
    """1:2:5 while all have lines; then the others share what is left of it, 1:2."""
    server = start_mock()
    write_lines_of_tenants(tmp_path / "prompts.jsonl", {"a": 200, "b": 200, "c": 150}, **fields)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "1", "--share", "a=1,b=2,c=5")

    assert done.returncode == 0, done.stderr
    tenants = tenants_of(server)
    end_of_c = len(tenants) - tenants[::-1].index("c")
    together, then = Counter(tenants[:end_of_c]), Counter(tenants[end_of_c : end_of_c + 90])
    assert together["b"] == pytest.approx(60, abs=4)
    assert together["a"] == pytest.approx(30, abs=4)
    assert then["b"] == pytest.approx(60, abs=4)
    assert len(records(tmp_path / "save.jsonl")) == 550


def test_deferred_lines_leave_a_set_reserve_of_slots(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """As long as immediate lines may come; once their input has ended, all slots are used."""
    server = start_mock("latency=0.05")
    write_lines_of_tenants(tmp_path / "later.jsonl", {"a": 600})
    process = start_run(
        *(tmp_path, environment, "-", "--deferred", "later.jsonl", "-u", server.url, "-j", "10", "--reserve", "30%"),
        stdin=subprocess.PIPE,
    )
    wait_for_requests(server, 100, process)
    most_before = server.most_in_flight
    process.communicate(timeout=60)

    assert process.returncode == 0
    assert (most_before, server.most_in_flight) == (7, 10)
