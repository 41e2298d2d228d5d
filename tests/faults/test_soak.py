"""The soak: mixed faults for a long time, after which the process holds no more than it did at first."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import orjson
import pytest

from llmblast.mocking.faults import FAULTS
from tests.conftest import LLMBLAST, StartMock, records, write_prompts
from tests.processes import run_measured

REFUSALS = ("301", "401", "402", "403", "404", "429-no-quota", "tls")
"""They end a run that meets them first."""
COSTLY = ("large-reply", "bomb", "restart", "429", "429-date", "429-ms", "429-silent", "503-retry-after", "529")
"""They pause everything or take a whole processor: a share of them would leave nothing of the rate."""
FREQUENT = tuple(kind for kind in FAULTS if kind not in REFUSALS + COSTLY)
FREQUENT_SHARE = 0.05
TIMEOUT_S = 1.0
IN_FLIGHT = 256
MIB = 1024 * 1024
TOO_LARGE = 6
MARGINS = {"files": 16, "tasks": 16, "memory": 16 * MIB}
"""How much more the last third may hold than the first: connections and tasks come and go with the faults, and the heap
keeps some of what a reply of 64 MiB took.
"""
SAMPLED = """
import asyncio, contextlib, json, os, sys, threading, time
from llmblast.cli import main

path, interval_s = sys.argv[1], float(sys.argv[2])
sys.argv[1:] = sys.argv[3:]
run = asyncio.Runner.run

def sample(file):
    with open("/proc/self/statm") as pages:
        memory = int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    held = {"files": len(os.listdir("/proc/self/fd")), "tasks": len(asyncio.all_tasks()), "memory": memory}
    file.write(json.dumps(held) + "\\n")

def keep_sampling(loop):
    with open(path, "w", buffering=1) as file, contextlib.suppress(RuntimeError):  # the loop was closed
        while True:
            loop.call_soon_threadsafe(sample, file)
            time.sleep(interval_s)

def run_sampled(runner, coroutine, **options):
    threading.Thread(target=keep_sampling, args=[runner.get_loop()], daemon=True).start()
    return run(runner, coroutine, **options)

asyncio.Runner.run = run_sampled
main()
"""


def mixed_faults(lines: int, costly: tuple[str, ...], meetings: int) -> str:
    """A share of the requests meets the frequent ones; each costly one is met so often, evenly over the run."""
    share = FREQUENT_SHARE / len(FREQUENT)
    rules = [f'[[fault]]\nkind = "{kind}"\nshare = {share}\n' for kind in FREQUENT]
    step = lines // meetings
    for index, kind in enumerate(costly, 1):
        numbers = [round((meeting + index / (len(costly) + 1)) * step) for meeting in range(meetings)]
        rules.append(f'[[fault]]\nkind = "{kind}"\nrequests = {numbers}\nseconds = 0.2\n')
    return "".join(rules)


@contextmanager
def provider(tmp_path: Path, environment: dict[str, str], faults: str) -> Iterator[str]:
    """The URL of a mock provider in a process of its own: it keeps nothing of what it received."""
    path = tmp_path / "faults.toml"
    path.write_text(faults)
    command = [*LLMBLAST, "mock", "--port", "0", "--latency", "0.01", "--faults", str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()


def times_recorded(tmp_path: Path, lines: int) -> tuple[bytearray, int]:
    """How many records each line has, by its number, and how many of all are errors. No file fits into memory."""
    times, errors = bytearray(lines + 1), 0
    for name in ("save", "errors"):
        with (tmp_path / f"{name}.jsonl").open("rb") as file:
            for record in file:
                times[orjson.loads(record)["line"]] += 1
                errors += name == "errors"
    return times[1:], errors


def medians(samples: list[dict[str, int]]) -> dict[str, float]:
    return {name: median(sample[name] for sample in samples) for name in MARGINS}


@pytest.mark.parametrize(
    ("lines", "per_s", "costly", "meetings", "interval_s"),
    [
        pytest.param(1_500, 500, COSTLY[:4], 1, 0.1, id="short"),
        pytest.param(1_200_000, 2_000, COSTLY, 20, 1.0, id="long", marks=pytest.mark.long),
    ],
)
def test_a_run_holds_no_more_at_its_end_than_at_first(
    tmp_path: Path,
    environment: dict[str, str],
    record_property: Callable[[str, object], None],
    lines: int,
    per_s: int,
    costly: tuple[str, ...],
    meetings: int,
    interval_s: float,
) -> None:
    """Files, tasks and memory are flat under faults of all kinds, nothing is forgotten, every line has one record."""
    write_prompts(tmp_path / "prompts.jsonl", lines)
    with provider(tmp_path, environment, mixed_faults(lines, costly, meetings)) as url:
        arguments = ("-u", f"{url},adaptive=false", "--rps", str(per_s), "-j", str(IN_FLIGHT))
        driver = (sys.executable, "-c", SAMPLED, "samples.jsonl", str(interval_s))
        done = subprocess.run(
            [*driver, "run", "prompts.jsonl", *arguments, "--timeout", str(TIMEOUT_S)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    samples = [orjson.loads(line) for line in (tmp_path / "samples.jsonl").read_bytes().splitlines()]
    third = len(samples) // 3
    first, last = medians(samples[:third]), medians(samples[-third:])
    times, errors = times_recorded(tmp_path, lines)
    record_property("first third", first)
    record_property("last third", last)
    record_property("most", {name: max(sample[name] for sample in samples) for name in MARGINS})
    record_property("samples", len(samples))
    record_property("errors", errors)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr
    assert "Warning" not in done.stderr
    assert times == b"\1" * lines
    assert 0 < errors < FREQUENT_SHARE * lines
    assert {name: last[name] for name in MARGINS if last[name] > first[name] + MARGINS[name]} == {}
    for path in tmp_path.iterdir():
        path.unlink()  # gigabytes, which nobody will look at


def test_replies_that_are_too_large_are_forgotten(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """One after the other is cut off at 64 MiB, and never do several of them fill the memory."""
    (tmp_path / "faults.toml").write_text('[[fault]]\nkind = "large-reply"\n')
    url = start_mock(f"latency=0&faults={tmp_path / 'faults.toml'}").url
    write_prompts(tmp_path / "prompts.jsonl", TOO_LARGE)

    exit_code, peak_bytes = run_measured(tmp_path, environment, "-u", url, "-j", "1")

    assert exit_code == 3
    assert [record["code"] for record in records(tmp_path / "errors.jsonl")] == ["reply_too_large"] * TOO_LARGE
    assert peak_bytes < TOO_LARGE * 64 * MIB / 2
