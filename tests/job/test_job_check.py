"""Check: what the lines add up to, and what the outputs hold already."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.job.check import check
from llmblast.job.earlier_runs import find_finished
from llmblast.reading import key_of
from llmblast.settings import Settings

LINES = [orjson.dumps({"input": f"prompt {number}"}) for number in range(10)]


def record(line: bytes, **more: object) -> bytes:
    return orjson.dumps({"key": key_of(line), **more}) + b"\n"


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(b"\n".join(LINES))
    return {"input": (str(prompts),), "save": str(tmp_path / "save.jsonl"), "errors": str(tmp_path / "errors.jsonl")}


def summary(capsys: pytest.CaptureFixture[str], **settings: Any) -> dict[str, Any]:
    asyncio.run(check(Settings(json=True, **settings)))
    told: dict[str, Any] = orjson.loads(capsys.readouterr().out)
    return told


def test_every_limit_has_its_time(paths: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts and answers apart; what a day allows goes at its start."""
    limits = {"rps": 2.0, "rpm": 60.0, "rpd": 4.0, "tpm": 600.0, "itpm": 60.0, "otpm": 256.0}

    told = summary(capsys, **paths, **limits)

    assert told["at_least_s"] == {
        "rps": 5.0,
        "rpm": 10.0,
        "tpm": pytest.approx((told["prompt_tokens"] + 2560) / 10, abs=0.1),
        "itpm": pytest.approx(told["prompt_tokens"], abs=1),
        "otpm": 600.0,
        "rpd": 172_800.0,
    }
    assert told["tokens"] == told["prompt_tokens"] + told["answer_tokens"]
    assert told["answer_tokens"] == 2560


def test_what_earlier_runs_finished_is_not_counted_as_to_be_sent(
    paths: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Answered lines, and those that failed for good; the outputs stay as they are."""
    torn = record(LINES[2], response="x")[:-5]
    Path(paths["save"]).write_bytes(record(LINES[0]) + record(LINES[1]) + record(b"other") + torn)
    failures = record(LINES[3], transient=False) + record(LINES[4], transient=True) + record(LINES[0], transient=False)
    Path(paths["errors"]).write_bytes(failures)

    told = summary(capsys, **paths, rps=1.0)
    asyncio.run(check(Settings(**paths)))

    lines = {"read": 10, "good": 10, "bad": 0, "answered": 2, "failed": 1, "to_send": 7}
    assert (told["lines"], told["at_least_s"]) == (lines, {"rps": 7.0})
    assert "to send   7; 2 already answered, 1 failed earlier; --retry-errors all" in capsys.readouterr().out
    assert Path(paths["errors"]).read_bytes() == failures
    assert Path(paths["save"]).read_bytes().endswith(torn)


def test_all_lines_are_sent_anew_with_overwrite(paths: dict[str, Any]) -> None:
    """And with `--retry-errors all` those that failed."""
    Path(paths["save"]).write_bytes(record(LINES[0]))
    Path(paths["errors"]).write_bytes(record(LINES[1], transient=False))

    counts = [
        [len(keys) for keys in find_finished(Settings(**paths, **more))]
        for more in ({}, {"retry_errors": "all"}, {"overwrite": True})
    ]

    assert counts == [[1, 1], [1, 0], [0, 0]]


def test_a_finished_input_needs_no_time(paths: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is left to send."""
    Path(paths["save"]).write_bytes(b"".join(map(record, LINES)))

    asyncio.run(check(Settings(**paths, rps=1.0)))

    assert capsys.readouterr().out == ("lines     10 read, 10 good, 0 bad\nto send   0; 10 already answered\n")


def test_the_costs_are_estimated_where_prices_are_known(
    paths: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the cheapest and of the dearest endpoint, as the lines may go to any."""
    url = "http://127.0.0.1/v1"
    endpoints = (EndpointSettings(url=url, name="a"), EndpointSettings(url=url, name="b", price_out=20.0))

    told = summary(capsys, **paths, price_in=0.0, price_out=10.0)
    both = summary(capsys, **paths, endpoints=endpoints, price_out=10.0)
    unknown = summary(capsys, **paths)

    assert told["cost"] == {"least": 0.0256, "most": 0.0256}
    assert both["cost"] == {"least": 0.0256, "most": 0.0512}
    assert unknown["cost"] is None
    asyncio.run(check(Settings(**paths, endpoints=endpoints, price_out=10.0)))
    assert "cost      about $0.026 to $0.051, sent directly\n" in capsys.readouterr().out


def test_the_costs_of_other_ways_are_estimated_where_lines_may_take_them(
    paths: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """At the endpoints that have this way, and at its share of their prices."""
    url = "https://api.openai.com/v1"
    endpoints = (
        EndpointSettings(url=url, name="a", defer="batch", batch_price=0.25),
        EndpointSettings(url=url, name="b", defer="flex"),
    )
    dear = (EndpointSettings(url=url, name="a"), EndpointSettings(url=url, name="b", price_out=20.0))

    both = summary(capsys, **paths, endpoints=endpoints, price_out=10.0)
    asyncio.run(check(Settings(**paths, endpoints=dear, price_out=10.0, defer="batch")))

    assert both["cost"]["batch"] == {"least": 0.0064, "most": 0.0064}
    assert both["cost"]["flex"] == {"least": 0.0128, "most": 0.0128}
    told = capsys.readouterr().out
    assert "cost      about $0.026 to $0.051, sent directly; $0.013 to $0.026 by batch\n" in told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detach": True}, "--detach: has no effect without batches"),
        ({"defer": "batch", "repeat": 2}, "--repeat: sends each repeat directly"),
        ({"defer": "flex", "endpoints": (EndpointSettings(url="https://api.anthropic.com"),)}, "flex tier"),
    ],
)
def test_settings_that_a_run_refuses_are_refused(paths: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    """As `run --dry-run` promises: no run begins with these."""
    with pytest.raises(UsageError, match=message):
        asyncio.run(check(Settings(**paths, **settings)))
