"""Limits as the server sees them: every bound here is asserted from the server's own ledger."""

from pathlib import Path

import pytest

from llmblast.mocking.server import MockServer, ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records, used_up_for_a_second, write_prompts


def arrivals(server: MockServer) -> list[float]:
    return sorted(arrival.arrived_s for arrival in server.ledger)


def most_in_a_second(server: MockServer) -> int:
    """The most arrivals in any moving second, less 40 ms that a busy test machine may shift an arrival by."""
    moments = arrivals(server)
    return max(sum(start <= moment < start + 0.96 for moment in moments) for start in moments)


@pytest.mark.parametrize("policy", ["fixed", "sliding"])
def test_two_calls_a_second_to_a_slow_server(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, policy: str
) -> None:
    """Ten calls at 2/s, each answered after 2 to 5 s: no 429, and the last leaves within 4.7 s of the first."""
    server = start_mock(f"rps=2&latency=2-5&policy={policy}")
    write_prompts(tmp_path / "prompts.jsonl", 10)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--rps", "2")

    assert done.returncode == 0, done.stderr
    assert server.rejected == 0
    assert len(server.ledger) == 10
    assert arrivals(server)[-1] - arrivals(server)[0] <= 4.7


def test_retries_pay_again(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """With a third of the replies 500s, first tries and retries together keep to the rate."""
    server = start_mock("errors=0.3&latency=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 200)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--rps", "100", "-a", "50")

    assert done.returncode == 0, done.stderr
    assert most_in_a_second(server) <= 100
    assert len(server.ledger) > 250


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_the_runs_concurrency_binds_over_all_endpoints(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, transport: str
) -> None:
    """Two endpoints with 10 each and a run-wide 5: never more than 5 in flight together, and 5 are reached."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", 200)
    urls = [f"{server.url},name={name},concurrency=10" for name in ("first", "second")]

    done = llmblast("run", "prompts.jsonl", "-u", urls[0], "-u", urls[1], "-j", "5", "--transport", transport)

    assert done.returncode == 0, done.stderr
    assert server.most_in_flight == 5


def test_an_endpoints_concurrency_binds(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Each endpoint keeps to its own bound while the run's would allow more."""
    first, second = start_mock("latency=0.02"), start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", 200)

    done = llmblast(
        "run", "prompts.jsonl", "-u", f"{first.url},concurrency=3", "-u", f"{second.url},concurrency=7", "-j", "100"
    )

    assert done.returncode == 0, done.stderr
    assert (first.most_in_flight, second.most_in_flight) == (3, 7)


def test_the_runs_rate_binds_over_all_endpoints(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Two endpoints with 100/s each and a run-wide 50: one server behind both never sees more than 50 in a second."""
    server = start_mock("latency=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 100)
    urls = [f"{server.url},name={name},rps=100" for name in ("first", "second")]

    done = llmblast("run", "prompts.jsonl", "-u", urls[0], "-u", urls[1], "--rps", "50")

    assert done.returncode == 0, done.stderr
    assert most_in_a_second(server) <= 50
    assert len(server.ledger) == 100


def test_an_endpoints_rate_binds(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Each endpoint keeps to its own rate; what the slow one cannot take goes to the other."""
    slow, fast = start_mock(), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 150)

    done = llmblast("run", "prompts.jsonl", "-u", f"{slow.url},rps=10", "-u", f"{fast.url},rps=90")

    assert done.returncode == 0, done.stderr
    assert most_in_a_second(slow) <= 10
    assert most_in_a_second(fast) <= 90
    assert len(slow.ledger) >= 10


def test_tokens_are_paced(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A cap of 60,000 tokens a minute is 1,000 a second: what the server counted in the run's seconds shows it."""
    server = start_mock("latency=0.01&tokens=40")
    write_prompts(tmp_path / "prompts.jsonl", 60)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--tpm", "60000")

    assert done.returncode == 0, done.stderr
    used = sum(record["usage"]["total_tokens"] for record in records(tmp_path / "save.jsonl"))
    span_s = arrivals(server)[-1] - arrivals(server)[0]
    assert span_s > (used - 600) / 1000


def test_weights_are_exact(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """3:1 over 1,000 requests is 750 to 250 when both are ready all the time."""
    heavy, light = start_mock(), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 1000)

    flags = [flag for mock, weight in ((heavy, 3), (light, 1)) for flag in ("-u", f"{mock.url},weight={weight}")]
    done = llmblast("run", "prompts.jsonl", *flags, "-j", "4")  # so many go at once: no slow start closes one of them

    assert done.returncode == 0, done.stderr
    assert (len(heavy.ledger), len(light.ledger)) == (750, 250)


def test_a_used_up_quota_pauses_its_endpoint_and_no_other(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """One of two rejects all for a second and says so: some requests ask whether that is so, then it is left alone
    until that moment; the other one goes on at its rate.
    """
    limited, healthy = start_mock(script=used_up_for_a_second()), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 400)

    done = llmblast("run", "prompts.jsonl", "-u", f"{limited.url},rps=100", "-u", f"{healthy.url},rps=100")

    assert done.returncode == 0, done.stderr
    rejected = [arrival.arrived_s for arrival in limited.ledger if arrival.status == 429]
    meanwhile = [moment for moment in arrivals(healthy) if rejected[0] < moment < rejected[0] + 1]
    assert len(rejected) <= 5
    assert len(meanwhile) >= 50


def test_a_429_among_answers_holds_back_its_own_line(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Each twentieth is rejected and asks for a second: the others go on at their rate."""

    def some(index: int, body: bytes) -> ScriptedReply | None:
        return ScriptedReply(429, b"{}", {"retry-after": "1"}) if index % 20 == 10 and index < 200 else None

    server = start_mock(script=some)
    write_prompts(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--rps", "100")

    assert done.returncode == 0, done.stderr
    firsts = arrivals(server)[:290]
    assert firsts[-1] - firsts[0] <= 1.25 * 2.9
