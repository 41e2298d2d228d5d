"""What to do about an endpoint that sent no reply."""

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.job.endpoint_findings import Finding, State, on_no_reply
from llmblast.models import Cause, Reply

BROKE = "the connection broke before a reply came"


@pytest.mark.parametrize(
    ("url", "cause", "detail", "fix"),
    [
        ("http://h/v1", Cause.BROKEN, BROKE, "if it speaks TLS, write https://"),
        ("https://h/v1", Cause.BROKEN, BROKE, "client_cert"),
        ("https://h/v1", Cause.TIMED_OUT, "no complete reply within 60 s", "log of the server"),
        ("http://h/v1", Cause.NOT_SENT, "no connection within 10 s", "correct the URL, start the server"),
    ],
)
def test_a_reason_without_a_fix_gets_one(url: str, cause: Cause, detail: str, fix: str) -> None:
    finding = Finding("h", State.OK)
    on_no_reply(finding, Reply(cause=cause, detail=detail), EndpointSettings(url=url))
    assert (finding.state, finding.reason) == (State.UNREACHABLE, detail)
    assert fix in finding.fix


def test_a_reason_that_has_a_fix_stands_alone() -> None:
    finding = Finding("h", State.OK)
    on_no_reply(
        finding, Reply(cause=Cause.NOT_SENT, detail="refused: is it running?"), EndpointSettings(url="http://h/v1")
    )
    assert finding.as_lines(1)[1] == "   refused: is it running?"
