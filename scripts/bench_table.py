"""The tables of the benchmarks: cases by name, figures with the bounds that they must keep, rows, which are chosen;
their files, and the README's section, which is made of them and never typed.
"""

import argparse
import math
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

EXIT_TERMINATED = 143
README = Path("README.md")
BEGIN = "<!-- scripts/bench --readme writes what follows -->"
END = "<!-- up to here -->"
_WIDTH = 108


class FailedRunError(Exception):
    """A measured process ended otherwise than it should; the message is what it said last."""


class LeftOutError(Exception):
    """A case cannot be measured here; the message says what is missing."""


@dataclass(frozen=True)
class Figure:
    """A value and the bounds that it must keep; without bounds it is only told."""

    name: str
    value: float
    form: str = "{:.0f}"
    least: float = -math.inf
    most: float = math.inf

    @property
    def is_met(self) -> bool:
        """It lies within its bounds."""
        return self.least <= self.value <= self.most

    @property
    def told(self) -> str:
        """Its name and value."""
        return f"{self.name} {self.form.format(self.value)}"

    @property
    def bounds(self) -> str:
        """What it must keep; empty where it is only told."""
        sides = ((">=", self.least), ("<=", self.most))
        return " and ".join(f"{sign} {self.form.format(bound)}" for sign, bound in sides if math.isfinite(bound))

    def __str__(self) -> str:
        return self.told + (f" ({self.bounds})" if self.bounds else "")


Figures = Sequence[Figure]


@dataclass(frozen=True)
class Case:
    """One measurement; `what` says for a person what it is. It may raise FailedRunError or LeftOutError."""

    name: str
    measure: Callable[[], Figures]
    what: str = ""


@dataclass(frozen=True)
class Row:
    """What came of one case: figures, or why there are none."""

    case: str
    figures: Figures
    failure: str = ""
    left_out: str = ""
    what: str = ""

    @property
    def is_met(self) -> bool:
        """Every figure is within its bounds, and it ran unless it was left out."""
        return not self.failure and all(figure.is_met for figure in self.figures)

    @property
    def verdict(self) -> str:
        """In one word."""
        if self.left_out:
            return "left out"
        return "ok" if self.is_met else "MISSED"

    def as_json(self) -> Mapping[str, object]:
        """For the file; bounds that are infinite become null."""
        values = {name: getattr(self, name) for name in ("case", "figures", "failure", "left_out", "what")}
        return {**values, "is_met": self.is_met}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `as_json` was, as it comes out of the file."""
        figures = [
            Figure(**{name: each for name, each in fields.items() if each is not None}) for fields in values["figures"]
        ]
        return cls(values["case"], figures, values["failure"], values["left_out"], values["what"])

    def __str__(self) -> str:
        first, *more = _packed([self.failure or self.left_out or "", *map(str, self.figures)])
        return "\n".join([f"{self.case:<33} {first:<{_WIDTH}} {self.verdict}", *(f"{'':<33} {line}" for line in more)])


def _packed(texts: Sequence[str]) -> Sequence[str]:
    """As few lines as have room for them."""
    lines = [""]
    for text in filter(None, texts):
        joined = f"{lines[-1]}, {text}" if lines[-1] else text
        if len(joined) <= _WIDTH or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(text)
    return lines


def is_part(case: str, wanted: str) -> bool:
    """`pacing:200:sliding` is a part of `pacing:200` and of `pacing`."""
    return f"{case}:".startswith(f"{wanted}:")


def chosen(parser: argparse.ArgumentParser, cases: Sequence[str], wanted: Sequence[str]) -> Sequence[str]:
    """The cases that are asked for, all where none is; a name that is not known ends the program."""
    for name in wanted:
        if not any(is_part(case, name) for case in cases):
            known = dict.fromkeys(case.partition(":")[0] for case in cases)
            parser.error(f"{name}: no such case. Known are: {', '.join(known)}; -h tells their parts.")
    return [case for case in cases if not wanted or any(is_part(case, name) for name in wanted)]


def exit_on_sigterm() -> None:
    """Let SIGTERM end the program as an exception does, so that what it has started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


def run_cases(cases: Sequence[Case], keep: Callable[[Row], None]) -> bool:
    """Measures one after the other, prints each row as it comes and hands it to `keep`; whether all bounds are met."""
    exit_on_sigterm()
    is_met = True
    for case in cases:
        row = _measured(case)
        print(row, flush=True)
        keep(row)
        is_met = is_met and row.is_met
    return is_met


def kept_rows(path: Path) -> Mapping[str, Any]:
    """The rows of a result file by case; none where there is no file or one of another form."""
    try:
        kept = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {row["case"]: row for row in kept["rows"]} if isinstance(kept, dict) else {}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a result file."""
    path.write_bytes(orjson.dumps({"rows": rows}, option=orjson.OPT_INDENT_2))


def machine() -> str:
    """In a few words."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _measured(case: Case) -> Row:
    try:
        return Row(case.name, case.measure(), what=case.what)
    except FailedRunError as error:
        return Row(case.name, (), failure=str(error), what=case.what)
    except LeftOutError as error:
        return Row(case.name, (), left_out=str(error), what=case.what)


def section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where and when it was measured, and the table; rows as they stand in bench.json."""
    dates = sorted({row["at"][:10] for row in rows})
    how = {f"{row['machine']}; {row['lines']:,} lines, median of {row['repeats']}" for row in rows}
    lines = [f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {' and '.join(sorted(how))}.", ""]
    lines += ["| what | figures | must hold | |", "|---|---|---|---|"]
    for values in rows:
        row = Row.from_json(values)
        told = row.failure or row.left_out or ", ".join(figure.told for figure in row.figures)
        bounds = ", ".join(f"{figure.name} {figure.bounds}" for figure in row.figures if figure.bounds)
        verdict = row.verdict if bounds or not row.figures else ""
        lines.append(f"| {row.what} | {told.replace('|', '/')} | {bounds} | {verdict} |")
    return "\n".join(lines)


def rewritten(readme: str, text: str) -> str:
    """The README with `text` between the two comments. Raises ValueError where they are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: the comments {BEGIN} and {END} are not both there")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
