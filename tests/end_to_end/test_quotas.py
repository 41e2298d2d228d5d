"""Quotas of accounts as the server sees them: groups that pause together, requests per day, tokens by kind."""

from pathlib import Path

import orjson

from llmblast.mocking.server import MockServer, ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records, write_prompts

REPLY_S = 0.05
"""What a send may have been on its way for when the 429 was read, on a busy test machine."""


def arrivals(*servers: MockServer) -> list[float]:
    return sorted(arrival.arrived_s for server in servers for arrival in server.ledger)


def test_a_429_pauses_its_quota_group_and_no_other(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """`retry-after: 1` from one of an account's two endpoints: both pause, and resume at that moment at their rate."""

    def once(index: int, body: bytes) -> ScriptedReply | None:
        return ScriptedReply(429, b"{}", {"retry-after": "1"}) if index == 20 else None

    limited, sibling, stranger = start_mock(script=once), start_mock(), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 500)
    settings = ((limited, "one"), (sibling, "one"), (stranger, "two"))
    urls = [part for server, quota in settings for part in ("-u", f"{server.url},rps=100,quota={quota}")]

    done = llmblast("run", "prompts.jsonl", *urls)

    assert done.returncode == 0, done.stderr
    rejected_s = next(arrival.arrived_s for arrival in limited.ledger if arrival.status == 429)
    for server in (limited, sibling):
        later = [moment - rejected_s for moment in arrivals(server) if moment > rejected_s + REPLY_S]
        assert 1.0 <= later[0] <= 1.25
        assert sum(moment < later[0] + 0.5 for moment in later) <= 52
    meanwhile = [moment for moment in arrivals(stranger) if rejected_s < moment < rejected_s + 1]
    assert len(meanwhile) >= 95
    assert len(arrivals(limited, sibling, stranger)) == 501


def test_requests_per_day_end_the_sending(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The first endpoint has 7 of them, the second 4: these go at once, the rest is left for another day."""
    first, second = start_mock(), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 30)
    (tmp_path / "endpoints.toml").write_text(
        f'[[endpoints]]\nurl = "{first.url}"\nrpd = 7\n\n[[endpoints]]\nurl = "{second.url}"\nrpd = 4\n'
    )

    done = llmblast("run", "prompts.jsonl", "-c", "endpoints.toml", "--max-time", "2")

    assert done.returncode == 5, done.stderr
    assert (len(first.ledger), len(second.ledger)) == (7, 4)
    assert arrivals(first, second)[-1] - arrivals(first, second)[0] < 1.0
    assert len(records(tmp_path / "save.jsonl")) == 11


def test_output_tokens_are_paced_by_themselves(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """60,000 of them a minute are 1,000 a second; the prompts, ten times as long, are not counted."""
    server = start_mock("latency=0.01&tokens=40")
    lines = (orjson.dumps({"input": f"Question {n}? {'Many words before it. ' * 80}"}) for n in range(60))
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines) + b"\n")

    done = llmblast("run", "prompts.jsonl", "-u", f"{server.url},otpm=60000")

    assert done.returncode == 0, done.stderr
    usage = [record["usage"] for record in records(tmp_path / "save.jsonl")]
    output = sum(used["completion_tokens"] for used in usage)
    assert sum(used["prompt_tokens"] for used in usage) > 10 * output
    span_s = arrivals(server)[-1] - arrivals(server)[0]
    assert (output - 300) / 1000 <= span_s <= 2 * output / 1000
