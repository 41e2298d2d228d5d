"""How fast: requests a second, file to file, beside what this machine can do at all.

Whatever is compared is measured in turns, within the same minutes, and the median of the ratios counts: a machine that
others use too, or that gets slower as it gets warm, changes both sides alike.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench_runs import (
    SAVE,
    Run,
    check_open_files,
    cpu_us,
    disk_mb_per_s,
    idle_cpu_s,
    measure,
    peak_mb,
    run_llmblast,
    write_prompts,
)
from bench_server import Server, reply_bytes
from bench_table import Figure, Figures

USUAL_SCRIPT = Path(__file__).with_name("bench_clients.py")
RATE, SHARE, LIMIT = "rate", "of wrk", "wrk"
"""The figures that the chart is drawn from."""
_IN_FLIGHT = 256


@dataclass(frozen=True)
class Bench:
    """What all cases need. `lines` is for one run of a fast case, `repeats` how often each is measured."""

    server: Server
    lines: int
    repeats: int
    memory_lines: int


def throughput(bench: Bench, in_flight: int) -> Figures:
    """At once and short replies, over the lean transport."""
    check_open_files(in_flight)
    flags = ("-j", str(in_flight))
    prompts = write_prompts(bench.lines // 10 if in_flight == 1 else bench.lines)
    runs: list[Run] = []
    is_judged = in_flight == _IN_FLIGHT

    def rate() -> float:
        runs.append(run_llmblast(prompts, bench.server.url(), *flags))
        return runs[-1].per_s

    figures = _beside_the_limit(bench, rate, least=0.33 if is_judged else None)
    most_us = {"most": 25.0} if is_judged else {}
    return [
        *figures,
        Figure("CPU a request", cpu_us(runs, idle_cpu_s(bench.server.url(), *flags)), "{:.1f} us", **most_us),
        Figure("peak", peak_mb(runs), "{:.0f} MB"),
    ]


def session(bench: Bench) -> Figures:
    """The transport for proxies."""
    prompts = write_prompts(bench.lines // 5)
    flags = ("-j", str(_IN_FLIGHT), "--transport", "session")
    return _beside_the_limit(bench, lambda: run_llmblast(prompts, bench.server.url(), *flags).per_s, least=0.08)


def usual(bench: Bench) -> Figures:
    """What people write first; the start of the process is taken off, as it is not in the rate of a run either."""
    count, url = bench.lines // 5, bench.server.url()

    def wall_s(lines: int) -> float:
        words = ("aiohttp", str(write_prompts(lines)), url, str(SAVE), str(_IN_FLIGHT))
        return measure(sys.executable, str(USUAL_SCRIPT), *words).wall_s

    return _beside_the_limit(bench, lambda: count / (wall_s(count) - wall_s(10)))


def unbound_limits(bench: Bench) -> Figures:
    """Requests, tokens and what is in flight limited at both levels, none of which ever binds, against none."""
    url = bench.server.url()
    limits = {"rps": "1e6", "tpm": "9e11"}
    behind = ",".join((url, *(f"{name}={amount}" for name, amount in limits.items()), f"concurrency={_IN_FLIGHT}"))
    flags = [word for name, amount in limits.items() for word in (f"--{name}", amount)]
    prompts, in_flight, free, limited = write_prompts(bench.lines), ("-j", str(_IN_FLIGHT)), [], []

    def rate() -> float:
        free.append(run_llmblast(prompts, url, *in_flight))
        limited.append(run_llmblast(prompts, behind, *in_flight, *flags))
        return limited[-1].per_s

    return [
        *_beside_the_limit(bench, rate),
        Figure("of that without limits", _ratio(limited, free), "{:.0%}"),
        Figure("CPU of the limits", cpu_us(limited, 0) - cpu_us(free, 0), "{:.1f} us", most=3.0),
    ]


def tls(bench: Bench) -> Figures:
    """The same requests, encrypted, with the server's own certificate; wrk goes without."""
    url, certificate = bench.server.tls()
    prompts, in_flight, plain, encrypted = write_prompts(bench.lines), ("-j", str(_IN_FLIGHT)), [], []

    def rate() -> float:
        plain.append(run_llmblast(prompts, bench.server.url(), *in_flight))
        encrypted.append(run_llmblast(prompts, url, *in_flight, environ={"SSL_CERT_FILE": certificate}))
        return encrypted[-1].per_s

    figures = _beside_the_limit(bench, rate)
    return [*figures, Figure("of that without TLS", _ratio(encrypted, plain), "{:.0%}", least=0.5)]


def replies(bench: Bench, kind: str) -> Figures:
    """Longer replies; each byte of them is received, parsed and written to the disk."""
    url = bench.server.url(kind)
    size_bytes = reply_bytes(url)
    prompts = write_prompts(bench.lines // 5)
    runs, disk, written_bytes = [], [], 0
    for _ in range(bench.repeats):
        disk.append(disk_mb_per_s(written_bytes or bench.lines // 5 * size_bytes))
        runs.append(run_llmblast(prompts, url, "-j", str(_IN_FLIGHT)))
        written_bytes = os.path.getsize(SAVE)
    bound = {"least": 350.0} if kind == "64k" else {}
    return [
        Figure("requests", median(run.per_s for run in runs), "{:,.0f}/s"),
        Figure("replies", median(run.per_s for run in runs) * size_bytes / 1e6, "{:.0f} MB/s", **bound),
        Figure("the disk alone", median(disk), "{:.0f} MB/s"),
        Figure("one reply", size_bytes, "{:,.0f} bytes"),
        Figure("peak", peak_mb(runs), "{:.0f} MB"),
    ]


def slow(bench: Bench) -> Figures:
    """10,000 at a time, each of which is answered after a second."""
    in_flight = 10_000
    check_open_files(in_flight)
    url, prompts = bench.server.url("slow"), write_prompts(bench.lines)
    runs = [run_llmblast(prompts, url, "-j", str(in_flight)) for _ in range(bench.repeats)]
    return [
        Figure("requests", median(run.per_s for run in runs), "{:,.0f}/s", least=8_500),
        Figure("peak", peak_mb(runs), "{:.0f} MB", most=250),
    ]


def paced(bench: Bench) -> Figures:
    """A rate of 10,000/s, with replies after 0.1 s; 100,000 lines take 10 s.

    What is done by the clock: lines by the duration of the whole run but for the 0.1 s of the last reply, so that the
    opening of files and connections counts.
    """
    rps, reply_s = 10_000, 0.1
    url, prompts, flags = bench.server.url("100ms"), write_prompts(bench.lines), ("--rps", str(rps), "-j", "4000")
    runs = [run_llmblast(prompts, url, *flags) for _ in range(bench.repeats)]
    idle_s = idle_cpu_s(url, *flags)
    used = median(run.summary["requests"]["per_second"] / rps for run in runs)
    done = median(run.lines / (run.duration_s - reply_s) / rps for run in runs)
    cpu = median((run.usage.cpu_s - idle_s) / run.duration_s for run in runs)
    return [
        Figure("done by the clock", done, "{:.1%}", least=0.99),
        Figure("sent, first to last", used, "{:.1%}"),
        Figure("of one core", cpu, "{:.0%}", most=0.55),
    ]


def _beside_the_limit(bench: Bench, rate: Callable[[], float], least: float | None = None) -> list[Figure]:
    """The limit right before each run, where it is known."""
    limits, rates = [], []
    for _ in range(bench.repeats):
        if bench.server.has_limit:
            limits.append(bench.server.limit())
        rates.append(rate())
    figures = [Figure(RATE, median(rates), "{:,.0f}/s")]
    if limits:
        bound: Mapping[str, float] = {} if least is None else {"least": least}
        ratio = median(each / limit for each, limit in zip(rates, limits, strict=True))
        figures += [Figure(SHARE, ratio, "{:.0%}", **bound), Figure(LIMIT, median(limits), "{:,.0f}/s")]
    return figures


def _ratio(runs: Sequence[Run], base: Sequence[Run]) -> float:
    return median(run.per_s / other.per_s for run, other in zip(runs, base, strict=True))
