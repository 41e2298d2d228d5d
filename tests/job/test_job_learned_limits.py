"""What a run learns of its endpoints, and where the next one begins."""

import time
from pathlib import Path

import orjson
import pytest

from llmblast.job.learned_limits import MAX_AGE_S, keep_limits, known_limits
from llmblast.job.run_scheduler import make_scheduler
from llmblast.scheduling import KnownLimits
from llmblast.setting_loading import load
from llmblast.settings import Settings

NOW_S = 1_800_000_000.0
URL = "http://127.0.0.1:9/v1"


def settings_for(folder: Path, *urls: str) -> Settings:
    return load({"endpoints": list(urls or (URL,)), "save": str(folder / "save.jsonl"), "model": "m"})


def learn(settings: Settings, per_s: float, now_s: float = NOW_S) -> None:
    """A run that knew this rate from its beginning, and got answers."""
    known = [KnownLimits(per_s)] + [KnownLimits()] * (len(settings.endpoints) - 1)
    endpoints = make_scheduler(settings, known).endpoints
    endpoints[0].traffic.answers = 1
    for n in range(200):
        endpoints[0].hold.push_back.acquire(1.0, n / per_s)
    keep_limits(settings, endpoints, now_s)


def test_the_next_run_begins_at_the_learned_rate(tmp_path: Path) -> None:
    """The file stands beside the output and names the endpoint and its model."""
    settings = settings_for(tmp_path)
    learn(settings, 291.0)

    assert known_limits(settings, NOW_S + 60) == [KnownLimits(291.0)]
    assert list(orjson.loads((tmp_path / "save.jsonl.limits").read_bytes())) == [f"{URL} m"]
    learned = make_scheduler(settings, known_limits(settings, NOW_S)).endpoints[0].learned.rate
    assert learned is not None
    assert learned.learned_per_s == 291.0


def test_where_no_limit_was_met_nothing_is_kept(tmp_path: Path) -> None:
    """And what an earlier run met is forgotten once an endpoint has answered without it."""
    settings = settings_for(tmp_path)
    learn(settings, 291.0)
    learn(settings, float("inf"))

    assert known_limits(settings, NOW_S) == [KnownLimits()]


def test_endpoints_that_a_run_does_not_use_keep_what_is_known_of_them(tmp_path: Path) -> None:
    """Two runs with different endpoints share one file."""
    other = "http://127.0.0.1:10/v1"
    learn(settings_for(tmp_path), 291.0)
    learn(settings_for(tmp_path, other), 12.0)

    assert known_limits(settings_for(tmp_path, other, URL), NOW_S) == [KnownLimits(12.0), KnownLimits(291.0)]


def test_old_limits_say_nothing(tmp_path: Path) -> None:
    """Quotas change within months."""
    settings = settings_for(tmp_path)
    learn(settings, 291.0)

    assert known_limits(settings, NOW_S + MAX_AGE_S + 1) == [KnownLimits()]


@pytest.mark.parametrize(
    "content",
    [b"", b"not JSON", b"[]", b'{"URL m":7}', b'{"URL m":{"rps":-1,"at":1}}', b'{"URL m":{"rps":"x","at":"y"}}'],
)
def test_a_damaged_file_says_nothing(tmp_path: Path, content: bytes) -> None:
    """It is a hint and no more."""
    settings = settings_for(tmp_path)
    (tmp_path / "save.jsonl.limits").write_bytes(content.replace(b"URL", URL.encode()))

    assert known_limits(settings, time.time()) == [KnownLimits()]
