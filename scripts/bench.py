"""The benchmark behind `scripts/bench`: every figure is a ratio to something measured in the same run."""

import argparse
import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

WORK = Path(".work/bench")
LLMBLAST = (sys.executable, "-m", "llmblast")
PROMPT = "Summarise this paragraph in one sentence please, number {:07d}: The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class Usage:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    figure: str
    note: str = ""


def measure(*command: str) -> Usage:
    """Runs a command to its end; it must succeed."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        stdout, stderr = process.stdout, process.stderr
        assert stdout is not None
        assert stderr is not None
        out, err = stdout.read(), stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}:\n{err}")
    return Usage(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, out)


def write_prompts(count: int) -> Path:
    """A prompt file of `count` different lines, made once."""
    path = WORK / f"prompts-{count}.jsonl"
    if not path.exists():
        with path.open("w") as file:
            for number in range(count):
                file.write(json.dumps({"id": f"row-{number}", "input": PROMPT.format(number)}) + "\n")
    return path


def run_llmblast(prompts: Path, url: str, *more: str) -> tuple[Usage, dict[str, Any]]:
    """One whole run, file to file, and its own summary."""
    outputs = ("-o", str(WORK / "save.jsonl"), "-e", str(WORK / "errors.jsonl"), "--overwrite", "-q", "--json")
    usage = measure(*LLMBLAST, "run", str(prompts), "-u", url, "-m", "mock", *outputs, *more)
    summary = json.loads(usage.stdout)
    with (WORK / "save.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == summary["lines"]["read"], "a line has no record"
    return usage, summary


@contextmanager
def server() -> Iterator[tuple[str, "str | None"]]:
    """The server to measure against: (base URL, command that prints its limit)."""
    command = os.environ.get("BENCH_SERVER")
    if command:
        url = subprocess.run([command, "start"], check=True, capture_output=True, text=True).stdout.split()[-1]
        try:
            yield url.removesuffix("/chat/completions"), command
        finally:
            subprocess.run([command, "stop"], check=False)
        return
    mock = subprocess.Popen([*LLMBLAST, "mock", "--port", "0", "--latency", "0"], stdout=subprocess.PIPE, text=True)
    assert mock.stdout is not None
    try:
        yield mock.stdout.readline().split()[-1], None
    finally:
        mock.send_signal(signal.SIGTERM)
        mock.wait()


async def usual_script(prompts: Path, url: str, in_flight: int) -> None:
    """What people write first: a semaphore around `ClientSession.post`, one task a line, a record a reply."""
    import aiohttp

    slots = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        with prompts.open() as lines, (WORK / "usual.jsonl").open("w") as save:

            async def answer(line: str) -> None:
                row = json.loads(line)
                body = {"model": "mock", "messages": [{"role": "user", "content": row["input"]}]}
                async with slots, session.post(f"{url}/chat/completions", json=body) as response:
                    reply = await response.json()
                row["response"] = reply["choices"][0]["message"]["content"]
                save.write(json.dumps(row) + "\n")

            await asyncio.gather(*(answer(line) for line in lines))


def throughput(url: str, command: str | None, count: int, repeats: int) -> Iterator[Row]:
    """Requests a second, file to file, against what the server can do at all."""
    prompts, warm_up = write_prompts(count), write_prompts(10)
    idle_cpu_s = run_llmblast(warm_up, url)[0].cpu_s
    limits, lean, cpu_us = [], [], []
    for _ in range(repeats):
        if command:
            limits.append(float(subprocess.run([command, "limit"], check=True, capture_output=True, text=True).stdout))
        usage, summary = run_llmblast(prompts, url)
        lean.append(count / summary["duration_s"])
        cpu_us.append((usage.cpu_s - idle_cpu_s) / count * 1e6)
    _, summary = run_llmblast(write_prompts(count // 5), url, "--transport", "session")
    session = count / 5 / summary["duration_s"]
    usual = measure(sys.executable, __file__, "--usual-script", str(write_prompts(count // 5)), url)
    usual_rate = count // 5 / usual.wall_s
    limit = median(limits) if limits else None

    def share(rate: float) -> str:
        return f"{rate / limit:.0%} of the limit" if limit else ""

    if limit:
        yield Row("wrk, the limit of this machine", f"{limit:,.0f}/s")
    yield Row("llmblast run", f"{median(lean):,.0f}/s", share(median(lean)))
    yield Row("llmblast run, CPU a request", f"{median(cpu_us):.1f} us")
    yield Row("llmblast run --transport session", f"{session:,.0f}/s", share(session))
    yield Row("the usual script: semaphore, ClientSession.post", f"{usual_rate:,.0f}/s", share(usual_rate))


def memory(url: str, count: int) -> Iterator[Row]:
    """Peak memory against the number of lines."""
    few, _ = run_llmblast(write_prompts(count), url)
    many, _ = run_llmblast(write_prompts(10 * count), url)
    yield Row(f"peak memory, {count:,} lines", f"{few.peak_mb:.0f} MB")
    yield Row(f"peak memory, {10 * count:,} lines", f"{many.peak_mb:.0f} MB")


def start_up() -> Iterator[Row]:
    """Whole processes."""
    yield Row("llmblast --help", f"{median(measure(*LLMBLAST, '--help').wall_s for _ in range(9)):.2f} s")


def pacing(url: str, rps: int, seconds: int) -> Iterator[Row]:
    """How much of a rate is used, from the first send to the last."""
    _, summary = run_llmblast(write_prompts(rps * seconds), url, "--rps", str(rps))
    yield Row(f"--rps {rps}, {seconds} s", f"{summary['requests']['per_second'] / rps:.1%} used")


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--usual-script", nargs=2, metavar=("PROMPTS", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if options.usual_script:
        asyncio.run(usual_script(Path(options.usual_script[0]), options.usual_script[1], 256))
        return
    with server() as (url, command):
        rows = [
            *throughput(url, command, options.lines, options.repeats),
            *memory(url, options.lines),
            *start_up(),
            *pacing(url, 200, 10),
            *pacing(url, 2000, 5),
        ]
    width = max(len(row.case) for row in rows)
    for row in rows:
        print(f"{row.case:<{width}}  {row.figure:>12}  {row.note}".rstrip())
    (WORK / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
