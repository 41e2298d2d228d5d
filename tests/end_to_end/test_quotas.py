"""Quotas of accounts as the server sees them: groups that pause together, requests per day, tokens by kind."""

from pathlib import Path

import orjson

from llmblast.mocking.server import MockServer
from tests.conftest import RunLlmblast, StartMock, records, used_up_for_a_second, write_prompts

REPLY_S = 0.1
"""What a send may have been on its way for when the 429 was read, on a busy test machine."""


def arrivals(*servers: MockServer) -> list[float]:
    return sorted(arrival.arrived_s for server in servers for arrival in server.ledger)


def test_a_used_up_quota_pauses_its_quota_group_and_no_other(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """An account of two endpoints rejects all for a second and says so: both are left alone but for some requests that
    ask whether that is so; another account never notices.
    """
    reject = used_up_for_a_second()
    limited, sibling, stranger = start_mock(script=reject), start_mock(script=reject), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 500)
    settings = ((limited, "one"), (sibling, "one"), (stranger, "two"))
    urls = [part for server, quota in settings for part in ("-u", f"{server.url},rps=100,quota={quota}")]

    done = llmblast("run", "prompts.jsonl", *urls)

    assert done.returncode == 0, done.stderr
    rejected = sorted(
        arrival.arrived_s for server in (limited, sibling) for arrival in server.ledger if arrival.status == 429
    )
    meanwhile = [moment for moment in arrivals(stranger) if rejected[0] < moment < rejected[0] + 1]
    assert sum(moment > rejected[0] + REPLY_S for moment in rejected) <= 6
    assert len(meanwhile) >= 50


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
