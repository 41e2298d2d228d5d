"""How small: memory against the number of lines, start-up, and the scan that a resumed run begins with."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from statistics import median

from bench_runs import LLMBLAST, PROMPT, SAVE, WORK, clean_up, measure, run_llmblast, write_prompts
from bench_speed import Bench
from bench_table import Figure, Figures

_FEW_LINES = 10_000
_STARTS = 9
_RECORDS = 1_000_000
_RECORD_BYTES = 1024


def memory(bench: Bench) -> Figures:
    """The peak of a whole run with 256 in flight must not depend on how long its file is."""
    url, flags = bench.server.url(), ("-j", "256")
    few_mb = run_llmblast(write_prompts(_FEW_LINES), url, *flags).usage.peak_mb
    with _once(write_prompts(bench.memory_lines)) as prompts:
        many_mb = run_llmblast(prompts, url, *flags).usage.peak_mb
    return [
        Figure(f"{_FEW_LINES:,} lines", few_mb, "{:.0f} MB", most=70),
        Figure(f"{bench.memory_lines:,} lines", many_mb, "{:.0f} MB", most=70),
        Figure("more", many_mb - few_mb, "{:.1f} MB", most=5),
    ]


def start_up(bench: Bench) -> Figures:
    """Whole processes, from nothing to their end."""
    url, prompts = bench.server.url(), write_prompts(10)
    help_s = median(measure(*LLMBLAST, "--help").wall_s for _ in range(_STARTS))
    run_s = median(run_llmblast(prompts, url).usage.wall_s for _ in range(_STARTS))
    return [
        Figure("llmblast --help", help_s, "{:.2f} s", most=0.12),
        Figure("llmblast run, 10 lines", run_s, "{:.2f} s", most=0.35),
    ]


def resume(bench: Bench) -> Figures:
    """The scan of 1 GB of records (from the page cache), as a run of one of their lines tells it; and a run that finds
    all of its lines answered. Neither sends anything.
    """
    prompts = WORK / "answered.jsonl"
    with _once(prompts):
        _write_answered(prompts, _RECORDS)
        url = bench.server.url()
        scans = [run_llmblast(prompts, url, "--limit", "1", resumes=True) for _ in range(bench.repeats)]
        runs = [run_llmblast(prompts, url, resumes=True) for _ in range(bench.repeats)]
    return [
        Figure(f"scan of {_RECORDS:,} records", median(run.usage.wall_s for run in scans), "{:.1f} s", most=4),
        Figure(f"and {_RECORDS:,} lines", median(run.usage.wall_s for run in runs), "{:.1f} s"),
        Figure("peak", max(run.usage.peak_mb for run in (*scans, *runs)), "{:.0f} MB", most=80),
        Figure("sent", max(run.summary["requests"]["sent"] for run in (*scans, *runs)), most=0),
    ]


@contextmanager
def _once(path: Path) -> Iterator[Path]:
    """A file that is too large to be kept, and so are the outputs that are made of it."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        clean_up()


def _write_answered(prompts: Path, count: int) -> None:
    """Lines, and a save file with a record for each. The key is as llmblast.reading.lines makes it."""
    clean_up()
    with prompts.open("w") as lines, SAVE.open("w") as records:
        for number in range(count):
            fields = {"id": f"row-{number}", "input": PROMPT.format(number)}
            line = json.dumps(fields)
            key = blake2b(line.encode(), digest_size=8).hexdigest()
            record = {"key": key, "line": number + 1, **fields, "response": ""}
            start = json.dumps(record, separators=(",", ":"))[: -len('"}')]
            records.write(start + "x" * (_RECORD_BYTES - len(start) - len('"}\n')) + '"}\n')
            lines.write(line + "\n")
