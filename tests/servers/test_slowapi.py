"""A FastAPI application whose limit slowapi keeps, as teams write them for their own models."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.conftest import LINES, Check, Run
from tests.servers.foreign_server import ForeignServer

pytestmark = pytest.mark.servers
SERVER = str(Path(__file__).with_name("slowapi_server.py"))
LIMIT, RPM = "100/5seconds", 1200


@pytest.fixture(params=[("moving-window", "yes"), ("fixed-window", "no")], ids=["headers", "no headers"])
def server(request: pytest.FixtureRequest) -> Iterator[ForeignServer]:
    """An application with a strategy, which tells its limit in headers or does not."""
    command = ("python", SERVER, LIMIT, *request.param)
    with ForeignServer(*command, address=r"listening on (\S+)", is_up="startup complete") as server:
        yield server


def test_nothing_is_rejected_at_the_set_limit(server: ForeignServer, run: Run, check: Check) -> None:
    """Neither by a window that moves nor by one that is fixed."""
    assert check(f"{server.url}/v1,model=m")["state"] == "ok"
    server.forget()

    outcome = run("-u", f"{server.url}/v1,rpm={RPM}", "-m", "m")

    assert outcome.exit_code == 0, outcome.said
    assert len(outcome.answers) == LINES
    assert server.statuses(LINES) == {"200": LINES}


def test_a_limit_that_was_not_set_is_learned(server: ForeignServer, run: Run) -> None:
    """From 429s and, where there are any, from headers: all lines are answered, and the server's count is ours."""
    outcome = run("-u", f"{server.url}/v1", "-m", "m")

    assert outcome.exit_code == 0, outcome.said
    assert {answer["response"] for answer in outcome.answers} == {f"You said: Question {n}?" for n in range(LINES)}
    statuses = server.statuses(LINES)
    assert statuses == Counter({"200": LINES, "429": outcome.summary["requests"]["rate_limited"]})
    assert statuses["429"] < LINES
