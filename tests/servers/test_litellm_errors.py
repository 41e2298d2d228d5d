"""LiteLLM's proxy without a database, and what goes wrong there."""

import secrets
from collections.abc import Iterator

import pytest

from tests.servers.conftest import LINES, Check, Run
from tests.servers.foreign_server import ForeignServer
from tests.servers.litellm_proxy import litellm_proxy

pytestmark = pytest.mark.servers
KEY = f"sk-{secrets.token_hex(32)}"


@pytest.fixture(scope="module")
def proxy() -> Iterator[ForeignServer]:
    """The proxy, with one key."""
    with litellm_proxy("open.yaml", LITELLM_MASTER_KEY=KEY) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("model", "key", "state", "reason"),
    [
        ("mock", "", "ok", ""),
        ("mock", "sk-wrong", "not authorised", "HTTP 400: No connected db"),
        ("missing", "", "model or path unknown", "HTTP 400: /chat/completions: Invalid model name passed in model=m"),
        ("broken", "", "server error", "HTTP 500: litellm.InternalServerError"),
    ],
)
def test_check_tells_what_is_wrong(
    proxy: ForeignServer, check: Check, model: str, key: str, state: str, reason: str
) -> None:
    finding = check(f"{proxy.url}/v1,model={model}", OPENAI_API_KEY=key or KEY)

    assert finding["state"] == state
    assert finding["reason"].startswith(reason)


@pytest.mark.parametrize(("model", "key"), [("missing", ""), ("mock", "sk-wrong")])
def test_what_concerns_all_lines_ends_the_run(proxy: ForeignServer, run: Run, model: str, key: str) -> None:
    """No line is lost to it: they stay pending."""
    outcome = run("-u", f"{proxy.url}/v1", "-m", model, OPENAI_API_KEY=key or KEY)

    assert outcome.exit_code == 77
    assert (outcome.answers, outcome.errors) == ([], [])
    assert "all endpoints rejected the requests" in outcome.said


def test_lines_that_are_too_long_fail_alone(proxy: ForeignServer, run: Run) -> None:
    """Each by one request; the others are answered."""
    asked = [{"role": "user", "content": "Yes?"}]
    lines = [{"model": "mock" if n % 10 else "too-long", "messages": asked} for n in range(LINES)]

    outcome = run("-u", f"{proxy.url}/v1", lines=lines, OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 3, outcome.said
    assert {error["line"] for error in outcome.errors} == set(range(1, LINES, 10))
    assert {(error["attempts"], error["transient"]) for error in outcome.errors} == {(1, False)}
    assert len(outcome.answers) == LINES - LINES // 10


def test_embeddings_and_other_forms_are_answered(proxy: ForeignServer, run: Run) -> None:
    """As records of OpenAI's batches, each with the path that it names."""
    bodies = {
        "/v1/embeddings": {"model": "vectors", "input": "Yes?"},
        "/v1/completions": {"model": "mock", "prompt": "Yes?"},
        "/v1/responses": {"model": "mock", "input": "Yes?"},
        "/v1/chat/completions": {"model": "mock", "messages": [{"role": "user", "content": "Yes?"}]},
    }
    lines = [{"custom_id": url, "method": "POST", "url": url, "body": body} for url, body in bodies.items()]

    outcome = run("-u", f"{proxy.url}/v1", lines=lines, OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 0, (outcome.said, outcome.errors)
    assert {answer["custom_id"] for answer in outcome.answers} == set(bodies)


def test_messages_are_answered(proxy: ForeignServer, run: Run) -> None:
    """The proxy speaks Anthropic's API as well."""
    outcome = run(
        "-u", f"{proxy.url},kind=anthropic", "-m", "mock", "--params", '{"max_tokens":5}', ANTHROPIC_API_KEY=KEY
    )

    assert outcome.exit_code == 0, outcome.said
    assert {answer["response"] for answer in outcome.answers} == {"Good."}


def test_the_wait_of_a_models_limit_is_kept(proxy: ForeignServer, run: Run) -> None:
    """It stands in a header of LiteLLM's own. Here it is longer than the run may wait, which stops at once."""
    proxy.forget()

    outcome = run("-u", f"{proxy.url}/v1", "-m", "limited", "-j", "1", "--max-wait", "20", OPENAI_API_KEY=KEY)

    assert outcome.exit_code == 5, outcome.said
    assert proxy.statuses(5)["429"] < 10
