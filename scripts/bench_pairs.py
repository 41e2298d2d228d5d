"""Pairs: llmblast and something else, in turns, ratio by ratio; here with another tree, for `scripts/bench --tree`.

Rates of different minutes do not compare on a machine that others use too. So each run has its partner right after it;
what counts is the ratio of the two, the median of all pairs, and between which values the ratios lie. A ratio is always
ours divided by theirs: above 1 is better for a rate, below 1 for a cost.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import orjson
from bench_runs import LLMBLAST, WORK, Run, check_open_files, clean_up, idle_cpu_s, measure, run_llmblast, write_prompts
from bench_speed import Bench
from bench_table import (
    Case,
    FailedRunError,
    Figure,
    Figures,
    LeftOutError,
    Row,
    kept_rows,
    machine,
    run_cases,
    write_rows,
)

RESULT = WORK / "against.json"
STATIONS = Path(__file__).with_name("bench_stations.py")
MAX_CASE_S = 1800.0
"""No further pair of a case begins after that."""

Turn = Mapping[str, float]
"""The values of one run by the names of FORMS."""
Pair = tuple[Turn, Turn]
"""A run of llmblast, and the run of the other one right after it."""
T = TypeVar("T")

FORMS = {
    "rate": "{:,.0f}/s",
    "CPU a request": "{:.1f} us",
    "sent, first to last": "{:.1%}",
    "of one core": "{:.1%}",
    "peak": "{:.0f} MB",
    "time": "{:.3f} s",
}
"""How the values are shown; one that is not here is a CPU time in us."""


def in_turns(
    count: int, ours: Callable[[], T], theirs: Callable[[], T], clock: Callable[[], float] = time.monotonic
) -> list[tuple[T, T]]:
    """Run both, one after the other, `count` times or until MAX_CASE_S have passed; at least once."""
    last_start_s = clock() + MAX_CASE_S
    pairs = []
    for _ in range(count):
        pairs.append((ours(), theirs()))
        if clock() >= last_start_s:
            break
    return pairs


def pair_figures(pairs: Sequence[Pair]) -> list[Figure]:
    """Return the ratios of each value that both sides have."""
    names = [name for name in pairs[0][0] if name in pairs[0][1]]
    figures = [ratio(name, [ours[name] for ours, _ in pairs], [theirs[name] for _, theirs in pairs]) for name in names]
    return [Figure("pairs", len(pairs)), *figures]


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Return the median of the ratios; in its form stand the lowest, the highest, and the medians of both sides."""
    ratios = [our / their if their else math.nan for our, their in zip(ours, theirs, strict=True)]
    form = FORMS.get(name, "{:.2f} us")
    sides = f"ours {form.format(median(ours))}, theirs {form.format(median(theirs))}"
    return Figure(name, median(ratios), f"{{:.2f}} x ({min(ratios):.2f} to {max(ratios):.2f}; {sides})")


class PairFile:
    """What against.json holds: with each row the values of every run. Rows of other cases stay."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._rows = dict(kept_rows(RESULT))
        self._details: dict[str, Mapping[str, object]] = {}

    def measure(self, cases: Sequence[Case]) -> bool:
        """Measure, print and keep the cases; return whether all could be measured."""
        try:
            return run_cases(cases, self._keep)
        finally:
            clean_up()

    def add_details(self, case: str, **details: object) -> None:
        """Remember what else stands in the row of a case."""
        self._details[case] = details

    def _keep(self, row: Row) -> None:
        conditions = {"lines": self._bench.lines, "machine": machine(), "server": self._bench.server.name}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._rows[row.case] = {**row.as_json(), "at": at, **conditions, **self._details.get(row.case, {})}
        write_rows(RESULT, list(self._rows.values()))


@dataclass(frozen=True)
class Tree:
    """A folder that holds the package llmblast: a checkout, or what a wheel unpacks to. All run in one interpreter."""

    folder: Path

    @property
    def environ(self) -> Mapping[str, str]:
        """What makes the interpreter take it; bytecode is written, so that the second start has it on both sides."""
        path = os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH"))))
        return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}

    def run(self, prompts: Path, url: str, *flags: str, **environ: str) -> Run:
        """One whole run, file to file."""
        return run_llmblast(prompts, url, *flags, environ={**self.environ, **environ})

    def described(self) -> str:
        """Its folder and version. Raises FailedRunError where the interpreter takes llmblast from somewhere else."""
        place = "import llmblast; print(llmblast.__file__)"
        found = Path(measure(sys.executable, "-P", "-c", place, environ=self.environ).stdout.strip())
        if not found.is_relative_to(self.folder):
            raise FailedRunError(f"{self.folder}: holds no llmblast that can be imported; {found} was taken")
        return f"{self.folder}: {measure(*LLMBLAST, '--version', environ=self.environ).stdout.strip()}"


def _speed(bench: Bench, tree: Tree, *, in_flight: int = 256, kind: str = "", share: int = 1) -> Callable[[], Turn]:
    check_open_files(in_flight)
    prompts, url, flags = write_prompts(bench.lines // share), bench.server.url(kind), ("-j", str(in_flight))
    idle_s = idle_cpu_s(url, *flags, environ=tree.environ)
    return lambda: _run_values(tree.run(prompts, url, *flags), idle_s)


def _tls(bench: Bench, tree: Tree) -> Callable[[], Turn]:
    url, certificate = bench.server.tls()
    environ, flags = {"SSL_CERT_FILE": certificate}, ("-j", "256")
    prompts, idle_s = write_prompts(bench.lines), idle_cpu_s(url, *flags, environ={**tree.environ, **environ})
    return lambda: _run_values(tree.run(prompts, url, *flags, **environ), idle_s)


def _run_values(run: Run, idle_s: float) -> Turn:
    cpu_s = run.usage.cpu_s - idle_s
    return {"rate": run.per_s, "CPU a request": cpu_s / run.lines * 1e6, "peak": run.usage.peak_mb}


def _paced(bench: Bench, tree: Tree) -> Callable[[], Turn]:
    rps = 10_000
    prompts, url, flags = write_prompts(bench.lines), bench.server.url("100ms"), ("--rps", str(rps), "-j", "4000")
    idle_s = idle_cpu_s(url, *flags, environ=tree.environ)

    def values() -> Turn:
        run = tree.run(prompts, url, *flags)
        of_one_core = (run.usage.cpu_s - idle_s) / run.duration_s
        return {"sent, first to last": run.summary["requests"]["per_second"] / rps, "of one core": of_one_core}

    return values


def _start_up(bench: Bench, tree: Tree) -> Callable[[], Turn]:
    prompts, url = write_prompts(10), bench.server.url()
    return lambda: {"time": tree.run(prompts, url).usage.wall_s}


def _help(bench: Bench, tree: Tree) -> Callable[[], Turn]:
    return lambda: {"time": measure(*LLMBLAST, "--help", environ=tree.environ).wall_s}


def _stations(bench: Bench, tree: Tree) -> Callable[[], Turn]:
    """Our script drives both, as long as the other tree has the same modules."""
    path = os.pathsep.join((tree.environ["PYTHONPATH"], str(STATIONS.parent.parent)))
    words = (sys.executable, str(STATIONS), str(write_prompts(bench.lines)), bench.server.url(), "--repeats", "1")

    def values() -> Turn:
        try:
            told = orjson.loads(measure(*words, environ={**tree.environ, "PYTHONPATH": path}).stdout)
        except FailedRunError as error:
            if "ImportError" in str(error) or "ModuleNotFoundError" in str(error):
                raise LeftOutError(f"{tree.folder}: its modules have other names: {error}") from None
            raise
        return {figure["name"]: figure["value"] for figure in told if not figure["name"].startswith("the ")}

    return values


def tree_cases() -> Mapping[str, tuple[str, Callable[[Bench, Tree], Callable[[], Turn]]]]:
    """All of them by name, in order, and what they are."""
    return {
        "throughput:256": ("256 in flight", _speed),
        "throughput:10000": ("10,000 in flight", partial(_speed, in_flight=10_000)),
        "replies:64k": ("256 in flight, replies of 64 KB", partial(_speed, kind="64k", share=5)),
        "tls": ("256 in flight, TLS", _tls),
        "paced": ("`--rps 10000`, replies after 0.1 s", _paced),
        "start-up": ("a run of 10 lines, the whole process", _start_up),
        "help": ("llmblast --help", _help),
        "stations": ("CPU a request, station by station", _stations),
    }


def measure_trees(bench: Bench, names: Sequence[str], ours: Path, theirs: Path) -> bool:
    """Pair two trees in each of the cases; return whether all could be measured."""
    file, table, trees = PairFile(bench), tree_cases(), (Tree(ours), Tree(theirs))
    described = [tree.described() for tree in trees]
    print(f"ours:   {described[0]}\ntheirs: {described[1]}", flush=True)

    def pair(key: str, measure_it: Callable[[Bench, Tree], Callable[[], Turn]]) -> Figures:
        ours_once, theirs_once = (measure_it(bench, tree) for tree in trees)
        pairs = in_turns(bench.repeats, ours_once, theirs_once)
        file.add_details(key, trees=described, pairs=pairs)
        return pair_figures(pairs)

    cases = []
    for name in names:
        what, measure_it = table[name]
        key = f"tree:{name}"
        cases.append(Case(key, partial(pair, key, measure_it), what))
    return file.measure(cases)
