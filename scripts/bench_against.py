"""Pairs for `scripts/bench --against` and `--tree`: llmblast and something else, in turns, ratio by ratio.

Rates of different minutes do not compare on a machine that others use too. So each run has its partner right after it;
what counts is the ratio of the two, the median of all pairs, and between which values the ratios lie. A ratio is always
llmblast, or this tree, divided by the other: above 1 is better for a rate, below 1 for a cost.
"""

import json
import os
import re
import shlex
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import orjson
from bench_runs import (
    LLMBLAST,
    PROMPT,
    SAVE,
    WORK,
    Run,
    check_open_files,
    clean_up,
    idle_cpu_s,
    measure,
    run_llmblast,
    write_chat_prompts,
    write_prompts,
)
from bench_server import Server, reply_body
from bench_speed import LIMIT, Bench
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
CONTENDERS = Path(__file__).with_name("bench_contenders.toml")
ENVIRONMENTS = Path(".work/contenders")
PLACEHOLDERS = ("input", "input_chat", "output", "url", "n", "concurrency", "python")
MAX_RUN_S = 300.0
MAX_CASE_S = 1800.0
"""No further pair of a case begins after that."""
_OTHERS = WORK / "theirs"
_MARK_CHARACTERS = 40
_SHOWN_CHARACTERS = 32

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
    """Return for each value that both sides have: its median on both sides, and the ratios pair by pair."""
    figures = [Figure("pairs", len(pairs))]
    for name in (name for name in pairs[0][0] if name in pairs[0][1]):
        ours, theirs = ([turn[name] for turn in side] for side in zip(*pairs, strict=True))
        form = FORMS.get(name, "{:.2f} us")
        figures += [Figure(name, median(ours), form), Figure("theirs", median(theirs), form), ratio(ours, theirs)]
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Return the median of the ratios; the lowest and the highest stand in its form."""
    ratios = [our / their if their else 0.0 for our, their in zip(ours, theirs, strict=True)]
    return Figure("ratio", median(ratios), f"{{:.2f}} ({min(ratios):.2f} to {max(ratios):.2f})")


class TemplateError(Exception):
    """A COMMAND with placeholders that are unknown or missing; the message names the fix."""


def check_template(command: str) -> None:
    """Raise TemplateError unless the command reads the input, writes the output and has no misspelt placeholder.

    Other braces are the shell's: `${HOME}`, `awk '{print}'`.
    """
    names = set(re.findall(r"(?<!\$)\{(\w+)\}", command))
    for name in sorted(names - {*PLACEHOLDERS}):
        for meant in get_close_matches(name.lower(), PLACEHOLDERS, n=1, cutoff=0.75):
            raise TemplateError(f"unknown placeholder {{{name}}}; use {{{meant}}}")
    if not names & {"input", "input_chat"}:
        raise TemplateError("the command does not name its input; use {input} or {input_chat}")
    if "output" not in names:
        raise TemplateError("the command does not name the file that it writes; use {output}")


def fill_template(command: str, values: Mapping[str, object]) -> str:
    """Return the shell command with the values in place of `{name}`, each quoted for the shell."""
    return re.sub(rf"(?<!\$)\{{({'|'.join(values)})\}}", lambda match: shlex.quote(str(values[match[1]])), command)


@dataclass(frozen=True)
class LineCheck:
    """The lines of an output file. Lines that are whole but hold no answer are errors that the command recorded."""

    expected: int
    whole: int
    corrupt: int
    unanswered: int

    @property
    def answered(self) -> int:
        """The work that was done; further lines than expected are none."""
        return min(self.whole - self.unanswered, self.expected)

    @property
    def missing(self) -> int:
        """Lines that are not there, not even in pieces."""
        return max(0, self.expected - self.whole - self.corrupt)

    @property
    def surplus(self) -> int:
        """Whole lines beyond those that were expected."""
        return max(0, self.whole - self.expected)

    def as_turn(self) -> Turn:
        """The defects, by name."""
        names = ("missing", "corrupt", "unanswered", "surplus")
        return {f"{name} lines": float(getattr(self, name)) for name in names}


DEFECTS = tuple(LineCheck(0, 0, 0, 0).as_turn())


def check_lines(path: Path, expected: int, answer: bytes = b"") -> LineCheck:
    """Count the lines of a JSONL file that are whole, corrupt, and whole without the text of an answer.

    Only an object or a list is a whole line: the rest of a broken one may be a valid number or string.
    """
    whole = corrupt = unanswered = 0
    with path.open("rb") as file:
        for line in filter(bytes.strip, file):
            if not _is_whole(line):
                corrupt += 1
                continue
            whole += 1
            unanswered += answer not in line
    return LineCheck(expected, whole, corrupt, unanswered)


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict | list)
    except orjson.JSONDecodeError:
        return False


def answer_mark(url: str) -> bytes:
    """Return the end of the text of each reply, as it stands in JSON; empty where replies differ, or need escapes."""
    replies = {reply_body(url, prompt) for prompt in (PROMPT.format(0), PROMPT.format(1))}
    texts = {str(orjson.loads(reply)["choices"][0]["message"]["content"]) for reply in replies}
    mark = texts.pop()[-_MARK_CHARACTERS:]
    is_plain = mark.isascii() and json.dumps(mark) == f'"{mark}"' and mark not in PROMPT
    return mark.encode() if is_plain and not texts else b""


@dataclass(frozen=True)
class Contender:
    """A command to compare with; `packages` are what it needs in an environment of its own."""

    name: str
    command: str
    what: str
    packages: Sequence[str] = ()
    lines: int | None = None

    def interpreter(self) -> str:
        """Return the Python for its command; install what it needs. Raises LeftOutError where that cannot be had."""
        if not self.packages:
            return sys.executable
        folder = ENVIRONMENTS / self.name
        python, installed = folder / "bin/python", folder / "packages.txt"
        wanted = "\n".join(self.packages)
        if not installed.exists() or installed.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            pip = (
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary",
                ":all:",
            )
            try:
                measure(sys.executable, "-m", "venv", str(folder), longest_s=MAX_RUN_S)
                measure(*pip, *self.packages, longest_s=MAX_RUN_S)
            except FailedRunError as error:
                raise LeftOutError(f"{', '.join(self.packages)} cannot be installed: {error}") from None
            installed.write_text(wanted)
        return str(python.absolute())


def known_contenders() -> Mapping[str, Contender]:
    """Those of the table of contenders, and wrk, which only counts and is as fast as this machine can be."""
    table = tomllib.loads(CONTENDERS.read_text())
    known = {name: Contender(name=name, **fields) for name, fields in table.items()}
    return {LIMIT: Contender(LIMIT, LIMIT, "wrk, which ignores the replies"), **known}


def find_contenders(commands: Sequence[str]) -> Sequence[Contender]:
    """Look up names, `all` among them; anything else is a command. Raises TemplateError."""
    known = known_contenders()
    found: list[Contender] = []
    for command in commands:
        if command == "all":
            found += known.values()
        elif command in known:
            found.append(known[command])
        elif re.fullmatch(r"[\w-]+", command):
            raise TemplateError(f"{command}: no such name. Known are: {', '.join(known)}, all; else give a command")
        else:
            check_template(command)
            short = command if len(command) <= _SHOWN_CHARACTERS else f"{command[: _SHOWN_CHARACTERS - 3]}..."
            found.append(Contender(short, command, command))
    return found


class Comparison:
    """Measures pairs and keeps them: with each row of against.json stand the values of every run."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._rows = dict(kept_rows(RESULT))
        self._more: dict[str, Mapping[str, object]] = {}

    def measure(self, cases: Sequence[Case]) -> bool:
        """Measure, print and keep the cases; return whether all could be measured."""
        try:
            return run_cases(cases, self._keep)
        finally:
            shutil.rmtree(_OTHERS, ignore_errors=True)
            clean_up()

    def _keep(self, row: Row) -> None:
        conditions = {"lines": self._bench.lines, "machine": machine(), "server": self._bench.server.name}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._rows[row.case] = {**row.as_json(), "at": at, **conditions, **self._more.get(row.case, {})}
        write_rows(RESULT, list(self._rows.values()))

    def against(self, contender: Contender, lines: int, in_flight: int) -> Figures:
        """Pair whole processes, their start among it: what a person waits for."""
        check_open_files(in_flight)
        server, python = self._bench.server, contender.interpreter()
        url, prompts = server.url(), write_prompts(lines)
        mark = answer_mark(url)

        def ours() -> Turn:
            usage = run_llmblast(prompts, url, "-j", str(in_flight)).usage
            return _turn(usage.wall_s, usage.cpu_s, usage.peak_mb, check_lines(SAVE, lines, mark))

        def theirs() -> Turn:
            if contender.name == LIMIT:
                return _limit(server)
            shutil.rmtree(_OTHERS, ignore_errors=True)
            _OTHERS.mkdir()
            output = (_OTHERS / "save.jsonl").absolute()
            values = {
                "input": prompts.absolute(),
                "input_chat": write_chat_prompts(lines).absolute(),
                "output": output,
                "url": url,
                "n": lines,
                "concurrency": in_flight,
                "python": python,
            }
            usage = measure("/bin/sh", "-c", fill_template(contender.command, values), longest_s=MAX_RUN_S)
            if not output.exists():
                raise FailedRunError(f"{contender.name} did not write {{output}}")
            return _turn(usage.wall_s, usage.cpu_s, usage.peak_mb, check_lines(output, lines, mark))

        pairs = in_turns(self._bench.repeats, ours, theirs)
        self._more[contender.name] = {
            "command": contender.command,
            "packages": contender.packages,
            "lines": lines,
            "in_flight": in_flight,
            "pairs": pairs,
        }
        return [*_without_defects(pairs), *_their_defects(pairs)]

    def tree(self, name: str, measure_it: "Callable[[Bench, Tree], Callable[[], Turn]]", trees: "Trees") -> Figures:
        """Pair two trees in one case."""
        ours, theirs = (measure_it(self._bench, tree) for tree in trees)
        pairs = in_turns(self._bench.repeats, ours, theirs)
        self._more[name] = {"trees": [tree.described() for tree in trees], "pairs": pairs}
        return pair_figures(pairs)


def _turn(wall_s: float, cpu_s: float, peak_mb: float, check: LineCheck) -> Turn:
    if not check.answered:
        raise FailedRunError(f"no line with an answer in the output: {dict(check.as_turn())}")
    values = {"rate": check.answered / wall_s, "CPU a request": cpu_s / check.answered * 1e6, "peak": peak_mb}
    return {**values, **check.as_turn()}


def _limit(server: Server) -> Turn:
    if not server.has_limit:
        raise LeftOutError("this server has no wrk beside it")
    return {"rate": server.limit()}


def _without_defects(pairs: Sequence[Pair]) -> list[Figure]:
    return pair_figures([(_values(ours), _values(theirs)) for ours, theirs in pairs])


def _values(turn: Turn) -> Turn:
    return {name: value for name, value in turn.items() if name not in DEFECTS}


def _their_defects(pairs: Sequence[Pair]) -> list[Figure]:
    """Those that there are, over all runs."""
    totals = {name: sum(theirs.get(name, 0.0) for _, theirs in pairs) for name in DEFECTS}
    return [Figure(f"their {name} in all runs", total, "{:,.0f}") for name, total in totals.items() if total]


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


Trees = tuple[Tree, Tree]
"""Ours, and the one to compare it with."""


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
    """Its own script, which knows its own modules; where there is none, ours."""
    script = next(
        path
        for path in (tree.folder / "scripts/bench_stations.py", Path(__file__).with_name("bench_stations.py"))
        if path.exists()
    )
    root = script.parent.parent
    path = os.pathsep.join((tree.environ["PYTHONPATH"], str(root)))
    words = (sys.executable, str(script), str(write_prompts(bench.lines)), bench.server.url(), "--repeats", "1")

    def values() -> Turn:
        told = orjson.loads(measure(*words, environ={**tree.environ, "PYTHONPATH": path}).stdout)
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


def measure_against(bench: Bench, contenders: Sequence[Contender], lines: int | None, in_flight: int) -> bool:
    """Pair llmblast with each of them; return whether all could be measured."""
    comparison = Comparison(bench)
    cases = []
    for each in contenders:
        count = lines or each.lines or bench.lines
        cases.append(Case(each.name, partial(comparison.against, each, count, in_flight), each.what))
    return comparison.measure(cases)


def measure_trees(bench: Bench, names: Sequence[str], ours: Path, theirs: Path) -> bool:
    """Pair two trees in each of the cases; return whether all could be measured."""
    comparison, table, trees = Comparison(bench), tree_cases(), (Tree(ours), Tree(theirs))
    print("\n".join(f"{side}: {tree.described()}" for side, tree in zip(("ours", "theirs"), trees, strict=True)))
    cases = []
    for name in names:
        what, measure_it = table[name]
        key = f"tree:{name}"
        cases.append(Case(key, partial(comparison.tree, key, measure_it, trees), what))
    return comparison.measure(cases)
