"""Each part broken on purpose: a run outlives what only advises, and ends in order where the path of a record breaks.

A launcher in the process lets one method raise, from its first call on or from a later one, and then runs the command
line against mock providers that reject, fail and break connections, so that every part has work to do. The message of
the defect repeats the key. A new part needs one line in `ADVICE` or `PATH`.
"""

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmblast.errors import ExitCode
from tests.conftest import CANARY, ROOT, StartMock, canary_places, records, write_prompts, write_requests
from tests.faults.checker import check, key_of

pytestmark = pytest.mark.pure
LAUNCHER = """
import importlib, inspect, os, sys
target, first, *arguments = sys.argv[1:]
module_name, _, path = target.partition(":")
owner = module = importlib.import_module(module_name)
*owners, name = path.split(".")
for one in owners:
    owner = getattr(owner, one)
method = inspect.getattr_static(owner, name)
call, calls = (method.fget if isinstance(method, property) else method), [0]

def broken(*arguments, **named):
    calls[0] += 1
    if calls[0] < int(first):
        return call(*arguments, **named)
    raise ZeroDivisionError("broken on purpose, " + os.environ["OPENAI_API_KEY"])

made = property(broken) if isinstance(method, property) else broken
setattr(owner, name, made)
if owner is module:  # others have imported the function by its name
    for other in [m for n, m in sys.modules.items() if n.startswith("llmblast")]:
        for alias in [n for n, value in vars(other).items() if value is method]:
            setattr(other, alias, made)
sys.argv = ["llmblast", *arguments]
from llmblast.cli import main
main()
"""
LINES = 250
CONCURRENCY = 40
UNDER_WAY = CONCURRENCY + 4
"""Answers that are lost with what renders them: those in flight, and some that wait for the writer."""
FAULTY = "latency=0.02&jitter=0.9&errors=0.03&rate_limited=0.03&broken=0.02&retry_after=0.05"
LIMITED = f"{FAULTY}&rps=150&policy=token-bucket"
ADVERTISED = "latency=0.01&rpm=1000&policy=token-bucket&headers=openai"
USED_UP = "latency=0.02&rps=60"
COUNTED = ("--tpm", "100000000")
HEDGED = ("--hedge", "p50", "-j", "8")
TIMELINE = ("--timeline", "timeline.jsonl")


@dataclass(frozen=True, kw_only=True)
class Defect:
    """Where it is, from which call of that method on, and the words for the part. `options` give the part work."""

    target: str
    part: str = ""
    first: int = 1
    mock: str = LIMITED
    options: tuple[str, ...] = ()
    lost: int = 0
    """Answers that may have come and be lost with it."""
    exit_code: ExitCode = ExitCode.DEFECT

    def __str__(self) -> str:
        return f"{self.target.rpartition(':')[2]}-{self.first}"


SCHEDULING, JOB, WATCHING = "llmblast.scheduling", "llmblast.job", "llmblast.watching"
ADVICE = [
    *(
        Defect(target=f"{SCHEDULING}.learned_rate:LearnedRate.{name}", part=".* learned rate", first=first)
        for name, first in (("acquire", 1), ("acquire", 50), ("ready_at", 20), ("on_rejected", 1))
    ),
    *(
        Defect(target=f"{SCHEDULING}.learned_rate:LearnedRate.{name}", part=".* learned rate", mock=USED_UP)
        for name in ("on_held_rejected", "on_exhausted")
    ),
    *(
        Defect(
            target=f"{SCHEDULING}.adaptive_concurrency:AdaptiveConcurrency.{name}", part=".* concurrency", first=first
        )
        for name, first in (("ready_at", 10), ("acquire", 10), ("on_answer", 1), ("on_push_back", 1))
    ),
    *(
        Defect(
            target=f"{SCHEDULING}.learned_concurrency:LearnedConcurrency.{name}",
            part=".* learned concurrency",
            first=first,
        )
        for name, first in (("acquire", 10), ("settle", 5), ("on_answer", 1), ("on_rejected", 1))
    ),
    *(
        Defect(target=f"{SCHEDULING}.advertised_rate:AdvertisedRate.{name}", part=part, first=2, mock=ADVERTISED)
        for name in ("acquire", "on_rate_limit_headers")
        for part in (".* requests limit reported by the provider",)
    ),
    Defect(
        target=f"{SCHEDULING}.advertised_rate:should_follow",
        part="reading rate-limit headers of .*",
        mock=ADVERTISED,
    ),
    Defect(
        target="llmblast.providers.openai:OpenAI.read_limits",
        part="reading rate-limit headers of .*",
        mock=ADVERTISED,
    ),
    Defect(
        target=f"{SCHEDULING}.tokens:TokenEstimator.learn",
        part="learning token counts of .*",
        first=3,
        options=COUNTED,
    ),
    Defect(
        target=f"{SCHEDULING}.routing_stats:RoutingStats.record_latency",
        part="the average latency of .*",
        options=("--route", "fastest"),
    ),
    Defect(
        target=f"{SCHEDULING}.routing_stats:RoutingStats.record_failure",
        part="the average latency of .*",
        options=("--route", "fastest"),
    ),
    *(
        Defect(target=f"{JOB}.hedging:Hedging.{name}", part="hedging", first=first, mock=FAULTY, options=HEDGED)
        for name, first in (
            ("watch", 20),
            ("learn", 1),
            ("due_s", 30),
            ("wake_at", 30),
            ("send_hedges", 2),
            ("slow_sends", 3),
            ("pair", 3),
            ("on_answer", 130),
            ("defers_to_peer", 3),
            ("_forget", 140),
        )
    ),
    Defect(target=f"{WATCHING}.counters:Histogram.add", part="the latency statistics", first=5),
    Defect(target=f"{WATCHING}.counters:Histogram.quantile", part="the (summary|progress display)"),
    Defect(target=f"{WATCHING}.counters:Counters.count_error", part="the error statistics", options=("-a", "1")),
    Defect(target=f"{JOB}.engine:Engine.refresh_counters", part="the counters"),
    Defect(target=f"{SCHEDULING}.scheduler:Scheduler.waited", part="the summary"),
    Defect(target=f"{SCHEDULING}.endpoints:Endpoint.state", part="the counters"),
    Defect(target=f"{WATCHING}.progress:make_display", part="the progress display"),
    Defect(target=f"{WATCHING}.bar:BarDisplay.tick", part="the progress display", options=("--progress", "bar")),
    Defect(target=f"{WATCHING}.bar:BarDisplay.stop", part="the progress display", options=("--progress", "bar")),
    Defect(target=f"{JOB}.allowance:allowance_of", part="the progress display", options=("--progress", "bar")),
    Defect(target=f"{WATCHING}.time_left:TimeLeft.seconds", part="the progress display"),
    Defect(target=f"{WATCHING}.rates:Pace.snapshot", part="the progress display", options=("--progress", "bar")),
    Defect(target=f"{WATCHING}.summary:Summary.as_text", part="the summary"),
    Defect(target=f"{WATCHING}.summary:Summary.as_json", part="the summary", options=("--json", "-q")),
    Defect(target=f"{WATCHING}.timeline:Timeline.tick", part="the timeline", options=TIMELINE),
    Defect(target=f"{WATCHING}.timeline:_rfc3339", part="the timeline", options=TIMELINE),
    Defect(target=f"{WATCHING}.sanitize:sanitize_text", part="(cleaning messages|the summary)", options=("-v",)),
]
PATH = [
    *(
        Defect(target=f"llmblast.{target}", first=first, lost=lost, mock=FAULTY)
        for target, first, lost in (
            ("writing.formats:render", 1, UNDER_WAY),
            ("writing.formats:render", 100, UNDER_WAY),
            ("writing.safe_json:dump_line", 100, UNDER_WAY),
            ("writing.writer:Writer.put", 100, UNDER_WAY),
            ("writing.stream:Stream._flush_once", 2, LINES),
            ("writing.stream:Stream._write", 3, LINES),
            ("writing.output_file:OutputFile.append", 2, LINES),
            ("writing.output_file:OutputFile.sync", 1, 0),
            ("sending.judging:judge", 100, UNDER_WAY),
            ("sending.backoff:Backoff.retry_wait_s", 3, 0),
            ("sending.lean:LeanChannel.start", 100, 0),
            ("sending.lean:LeanChannel.send", 3, 0),
            ("sending.lean:LeanChannel.sweep", 1, 0),
            ("sending.exchange:Exchange.on_data", 100, UNDER_WAY),
            ("sending.reply_reader:ReplyReader.on_message_complete", 100, UNDER_WAY),
            ("job.line_ends:LineEnds.succeed", 100, UNDER_WAY),
            ("job.response_handler:ResponseHandler._on_failure", 5, 0),
            ("job.response_handler:ResponseHandler._retry_rejected_line", 2, 0),
            ("job.engine:Engine.check_waits", 1, 0),
            ("job.engine:Engine._next", 120, 0),
            ("job.engine:Engine._handle_reply_and_dispatch_next", 120, UNDER_WAY),
            ("job.engine:Engine.accept", 120, 0),
            ("job.batch_parser:BatchParser.parse", 1, 0),
            ("reading.request_parser:RequestParser.parse", 100, 0),
            ("reading.lines:LineSplitter.feed", 1, 0),
            ("scheduling.scheduler:Scheduler.next", 120, 0),
            ("scheduling.scheduler:Scheduler.on_outcome", 100, 0),
            ("scheduling.scheduler:Scheduler.release", 100, 0),
            ("scheduling.request_queue:RequestQueue.add_retry", 3, 0),
            ("scheduling.push_back:PushBack.acquire", 100, 0),
            ("scheduling.push_back:PushBack.on_rejected", 2, 0),
            ("scheduling.endpoints:Endpoint.record_send", 100, 0),
        )
    ),
    Defect(target="llmblast.writing.formats:error_record", mock=FAULTY, options=("-a", "1")),
    Defect(target="llmblast.scheduling.request_rate:RequestRate.acquire", first=50, options=("--rps", "500")),
    Defect(target="llmblast.scheduling.limits:Concurrency.acquire", first=50, options=("--rps", "500")),
    Defect(target="llmblast.scheduling.tokens:TokenEstimator.estimate", first=50, options=COUNTED),
]


def run_broken(
    tmp_path: Path, environment: dict[str, str], target: str, first: int, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """`llmblast` with these arguments and one method that raises."""
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER, target, str(first), *arguments],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def recorded(tmp_path: Path) -> Counter[str]:
    """How often each key has a record."""
    files = (tmp_path / "save.jsonl", tmp_path / "errors.jsonl")
    return Counter(record["key"] for file in files if file.exists() for record in records(file))


def keys_of(prompts: Path) -> Counter[str]:
    return Counter(map(key_of, prompts.read_bytes().splitlines()))


@pytest.mark.parametrize("defect", ADVICE, ids=str)
def test_a_run_outlives_a_defect_in_what_only_advises(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, defect: Defect
) -> None:
    """Every line has one record, and a person is told once which part is off."""
    prompts = write_requests(tmp_path / "prompts.jsonl", (f"Question {n}?" for n in range(LINES)))
    urls = ("-u", start_mock(f"{defect.mock}&seed=1").url, "-u", start_mock(f"{defect.mock}&seed=2").url)

    done = run_broken(
        tmp_path,
        environment,
        defect.target,
        defect.first,
        *("run", "prompts.jsonl", *urls, "-j", str(CONCURRENCY), *defect.options),
    )

    told = [line for line in done.stderr.splitlines() if "a defect in" in line]
    details = (tmp_path / "save.jsonl.defect.txt").read_text() if told else ""
    assert done.returncode in (ExitCode.OK, ExitCode.SOME_FAILED), done.stderr
    assert recorded(tmp_path) == keys_of(prompts)
    assert "Traceback" not in done.stderr
    assert 1 <= len(told) <= 2, done.stderr  # twice where both endpoints have such a part
    pattern = rf".*a defect in {defect.part}: ZeroDivisionError: broken on purpose, \(hidden\).* is switched off.*"
    assert all(re.fullmatch(pattern, line) for line in told), told
    assert len(set(told)) == len(told)
    assert details.count("UTC: llmblast run: a defect in ") == len(told)
    assert "Traceback" in details
    assert canary_places([tmp_path]) == []
    assert CANARY not in done.stderr + done.stdout


@pytest.mark.parametrize("defect", PATH, ids=str)
def test_a_defect_in_the_path_of_a_record_ends_the_run_in_order(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, defect: Defect
) -> None:
    """What arrived is written, the details are beside it, and the same command goes on to the end."""
    prompts = write_requests(tmp_path / "prompts.jsonl", (f"Question {n}?" for n in range(LINES)))
    ledger = tmp_path / "ledger.jsonl"
    url = start_mock(f"{defect.mock}&ledger={ledger}").url
    arguments = ("run", "prompts.jsonl", "-u", url, "-j", str(CONCURRENCY), "--grace", "5", "-a", "9", *defect.options)

    done = run_broken(tmp_path, environment, defect.target, defect.first, *arguments)
    first_run = recorded(tmp_path)
    details = (tmp_path / "save.jsonl.defect.txt").read_text()
    resumed = run_broken(tmp_path, environment, "llmblast.fence:Fence.switch_off", 1, *arguments)

    assert done.returncode == ExitCode.DEFECT, done.stderr
    assert "Traceback" not in done.stderr
    assert "a defect in llmblast: ZeroDivisionError: broken on purpose, (hidden)" in done.stderr
    assert "details: save.jsonl.defect.txt" in done.stderr
    assert "next: llmblast run prompts.jsonl" in done.stderr
    assert "Traceback" in details
    assert "so far sent = " in details
    assert (tmp_path / "save.jsonl.defect.txt").stat().st_mode & 0o777 == 0o600
    assert first_run <= keys_of(prompts)
    assert resumed.returncode in (ExitCode.OK, ExitCode.SOME_FAILED), resumed.stderr
    assert recorded(tmp_path) == keys_of(prompts)
    files = (tmp_path / "save.jsonl", tmp_path / "errors.jsonl")
    assert check(prompts, *files, ledger, most_sends=99, lost=defect.lost) == []
    assert canary_places([tmp_path]) == []
    assert CANARY not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("llmblast.job.check:_summary", ("check", "prompts.jsonl")),
        ("llmblast.cli.config:_table", ("config", "show")),
        ("llmblast.mocking.server:MockServer.__aenter__", ("mock", "--port", "0")),
        ("llmblast.setting_loading:merge", ("run", "prompts.jsonl", "-u", "mock:")),
        ("llmblast.job.start:run_preflight_checks", ("run", "prompts.jsonl", "-u", "mock:")),
        ("llmblast.job.pipeline_building:make_scheduler", ("run", "prompts.jsonl", "-u", "mock:")),
    ],
)
def test_no_command_shows_a_traceback(
    tmp_path: Path, environment: dict[str, str], target: str, arguments: tuple[str, ...]
) -> None:
    """Wherever it breaks, a person gets one sentence, and the details are in a file in this folder."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = run_broken(tmp_path, environment, target, 1, *arguments)

    (details,) = tmp_path.glob("*.defect.txt")
    lines = done.stderr.splitlines()
    assert done.returncode == ExitCode.DEFECT, done.stderr
    assert len(lines) == 1
    assert lines[0].startswith("llmblast: a defect in llmblast: ZeroDivisionError: broken on purpose, (hidden)")
    assert lines[0].endswith(f"; details: {details.name}")
    assert "Traceback" in details.read_text()
    assert canary_places([tmp_path]) == []


def test_where_the_output_is_a_pipe_the_details_are_in_the_current_folder(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """And the advice is not to run the command again: standard output cannot be resumed."""
    write_prompts(tmp_path / "prompts.jsonl", 10)
    url = start_mock("latency=0").url

    done = run_broken(
        tmp_path, environment, "llmblast.writing.formats:render", 3, "run", "prompts.jsonl", "-u", url, "-o", "-"
    )

    assert done.returncode == ExitCode.DEFECT
    assert len(done.stdout.splitlines()) == 2
    assert (tmp_path / "llmblast.defect.txt").exists()
    assert "standard output cannot be resumed" in done.stderr


def test_a_link_in_place_of_the_details_is_not_followed(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """In a folder that all may write to it may lead to what must not be changed; they go to a temporary file."""
    write_prompts(tmp_path / "prompts.jsonl", 10)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "save.jsonl.defect.txt").symlink_to("precious")
    folder = tmp_path / "temporary"
    folder.mkdir()

    done = run_broken(
        tmp_path,
        {**environment, "TMPDIR": str(folder)},
        "llmblast.writing.formats:render",
        3,
        *("run", "prompts.jsonl", "-u", start_mock("latency=0").url),
    )

    (details,) = folder.glob("*.defect.txt")
    assert done.returncode == ExitCode.DEFECT
    assert (tmp_path / "precious").read_text() == "precious"
    assert f"details: {details}" in done.stderr


@pytest.mark.parametrize("broken", ["tick", "stop", "_clear_what_wrapped", "lines"])
def test_a_display_with_a_defect_leaves_the_cursor_visible(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, broken: str
) -> None:
    """On a real terminal: what hid it may be what is broken."""
    write_prompts(tmp_path / "prompts.jsonl", 30)
    arguments = ["run", "prompts.jsonl", "-u", start_mock("latency=0.02").url, "-j", "2"]
    ours, theirs = pty.openpty()

    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, f"llmblast.watching.bar:BarDisplay.{broken}", "1", *arguments],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = read_to_the_end(ours)

    assert process.returncode == 0
    assert "a defect in the progress display" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "every line has its answer" in shown


def read_to_the_end(terminal: int) -> str:
    """All that was written to it until the last process has closed it."""
    blocks = []
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as file:
        while block := file.read(65536):
            blocks.append(block)
    return b"".join(blocks).decode(errors="replace")
