"""LiteLLM's proxy with a limit for the key."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.servers.conftest import LINES, Check, Run
from tests.servers.foreign_server import ForeignServer
from tests.servers.litellm_proxy import litellm_proxy

pytestmark = pytest.mark.servers
WINDOW_S = 5
RPM = 1200
"""100 in each window."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[ForeignServer]:
    """The proxy, whose windows are shorter than a minute so that 200 lines fill some."""
    with litellm_proxy("limited.yaml", LITELLM_RATE_LIMIT_WINDOW_SIZE=str(WINDOW_S)) as proxy:
        yield proxy


def test_nothing_is_rejected_at_the_set_limit(proxy: ForeignServer, run: Run, check: Check) -> None:
    """The limit is not written into the settings of the proxy's models, but into those of the key."""
    finding = check(f"{proxy.url}/v1,model=mock", OPENAI_API_KEY="sk-first")
    proxy.forget()

    outcome = run("-u", f"{proxy.url}/v1,rpm={RPM}", "-m", "mock", OPENAI_API_KEY="sk-first")

    assert finding["state"] == "ok"
    assert {"kind": "requests", "limit": 100.0, "remaining": 99.0} in finding["limits"]
    assert outcome.exit_code == 0, outcome.said
    assert {answer["response"] for answer in outcome.answers} == {"Good."}
    assert len(outcome.answers) == LINES
    assert proxy.statuses(LINES) == {"200": LINES}


def test_a_limit_that_was_not_set_is_learned(proxy: ForeignServer, run: Run) -> None:
    """Its 429s say how long to wait: all lines are answered, and the proxy's count is ours."""
    proxy.forget()

    outcome = run("-u", f"{proxy.url}/v1", "-m", "mock", OPENAI_API_KEY="sk-second")

    assert outcome.exit_code == 0, outcome.said
    assert len(outcome.answers) == LINES
    statuses = proxy.statuses(LINES)
    assert statuses == Counter({"200": LINES, "429": outcome.summary["requests"]["rate_limited"]})
    assert statuses["429"] < LINES


def test_a_wrong_key_is_told(proxy: ForeignServer, run: Run, check: Check) -> None:
    """After one request, and before the lines are gone."""
    finding = check(f"{proxy.url}/v1,model=mock", OPENAI_API_KEY="wrong")

    outcome = run("-u", f"{proxy.url}/v1", "-m", "mock", OPENAI_API_KEY="wrong")

    assert finding["state"] == "not authorised"
    assert outcome.exit_code == 77
    assert (outcome.answers, outcome.errors) == ([], [])
    assert "HTTP 401: Authentication Error" in outcome.said
