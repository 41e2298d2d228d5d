"""Any other command beside llmblast, for `scripts/bench --against`: its template, its lines, those known by name."""

import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import orjson
from bench_pairs import Pair, PairFile, Turn, in_turns, pair_figures
from bench_runs import (
    PROMPT,
    SAVE,
    WORK,
    Usage,
    check_open_files,
    measure,
    run_llmblast,
    write_chat_prompts,
    write_prompts,
)
from bench_server import Server, reply_body
from bench_speed import LIMIT, Bench
from bench_table import Case, FailedRunError, Figure, Figures, LeftOutError

CONTENDERS = Path(__file__).with_name("bench_contenders.toml")
ENVIRONMENTS = Path(".work/contenders")
PLACEHOLDERS = ("input", "input_chat", "output", "url", "n", "concurrency", "python")
MAX_RUN_S = 300.0
_FOLDER = WORK / "theirs"
_MARK_CHARACTERS = 40
_SHOWN_CHARACTERS = 32
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


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

    def defects(self) -> Turn:
        """The numbers of lines that are wrong, by the names of DEFECTS."""
        return dict(zip(DEFECTS, (self.missing, self.corrupt, self.unanswered, self.surplus), strict=True))

    def __str__(self) -> str:
        found = [f"{count:,.0f} {name}" for name, count in self.defects().items() if count]
        return ", ".join([f"{self.whole:,} of {self.expected:,} lines are whole", *found])


DEFECTS = ("missing lines", "corrupt lines", "unanswered lines", "surplus lines")


def check_lines(path: Path, expected: int, answer: bytes = b"") -> LineCheck:
    """Count the lines of a JSONL file that are whole, corrupt, and whole without the text of an answer.
    Raises FailedRunError where there is no file.

    Only an object or a list is a whole line: the rest of a broken one may be a valid number or string.
    """
    if not path.exists():
        raise FailedRunError("the command did not write {output}")
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
            try:
                measure(sys.executable, "-m", "venv", str(folder), longest_s=MAX_RUN_S)
                measure(str(python), *_PIP, "install", "--only-binary", ":all:", *self.packages, longest_s=MAX_RUN_S)
            except FailedRunError as error:
                raise LeftOutError(f"{', '.join(self.packages)} cannot be installed: {error}") from None
            installed.write_text(wanted)
        return str(python.absolute())

    def installed(self) -> Sequence[str]:
        """Return the version of each package in its environment."""
        return measure(self.interpreter(), *_PIP, "freeze").stdout.split()


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


def compare(bench: Bench, file: PairFile, contender: Contender, lines: int, in_flight: int) -> Figures:
    """Pair whole processes, their start among it: what a person waits for. wrk tells its rate without its start, so
    ours goes without it there.
    """
    check_open_files(in_flight)
    python = contender.interpreter()
    url, prompts = bench.server.url(), write_prompts(lines)
    mark = answer_mark(url)
    output = (_FOLDER / "save.jsonl").absolute()
    values = {
        "input": prompts.absolute(),
        "input_chat": write_chat_prompts(lines).absolute(),
        "output": output,
        "url": url,
        "n": lines,
        "concurrency": in_flight,
        "python": python,
    }
    command = fill_template(contender.command, values)

    def ours() -> Turn:
        run = run_llmblast(prompts, url, "-j", str(in_flight))
        turn = _turn(run.usage, check_lines(SAVE, lines, mark))
        return {**turn, "rate": run.per_s} if contender.name == LIMIT else turn

    def theirs() -> Turn:
        if contender.name == LIMIT:
            return _limit(bench.server)
        shutil.rmtree(_FOLDER, ignore_errors=True)
        _FOLDER.mkdir()
        usage = measure("/bin/sh", "-c", command, longest_s=MAX_RUN_S)
        return _turn(usage, check_lines(output, lines, mark))

    try:
        pairs = in_turns(bench.repeats, ours, theirs)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    packages = contender.installed() if contender.packages else []
    details = {"command": contender.command, "packages": packages, "lines": lines, "in_flight": in_flight}
    file.add_details(contender.name, **details, pairs=pairs)
    return [*pair_figures([(_values(ours), _values(theirs)) for ours, theirs in pairs]), *_defects(pairs)]


def _turn(usage: Usage, check: LineCheck) -> Turn:
    if not check.answered:
        raise FailedRunError(f"no line of the output is an answer: {check}")
    cpu_us = usage.cpu_s / check.answered * 1e6
    values = {"rate": check.answered / usage.wall_s, "CPU a request": cpu_us, "peak": usage.peak_mb}
    return {**values, **check.defects()}


def _limit(server: Server) -> Turn:
    if not server.has_limit:
        raise LeftOutError("this server has no wrk beside it")
    return {"rate": server.limit()}


def _values(turn: Turn) -> Turn:
    return {name: value for name, value in turn.items() if name not in DEFECTS}


def _defects(pairs: Sequence[Pair]) -> list[Figure]:
    """Those of the other one, over all runs, where there are any."""
    totals = {name: sum(theirs.get(name, 0.0) for _, theirs in pairs) for name in DEFECTS}
    return [Figure(f"their {name} in all runs", total, "{:,.0f}") for name, total in totals.items() if total]


def measure_against(bench: Bench, contenders: Sequence[Contender], lines: int | None, in_flight: int) -> bool:
    """Pair llmblast with each of them; return whether all could be measured."""
    file, cases = PairFile(bench), []
    for each in contenders:
        count = lines or each.lines or bench.lines
        cases.append(Case(each.name, partial(compare, bench, file, each, count, in_flight), each.what))
    return file.measure(cases)
