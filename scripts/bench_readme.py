"""The README's section on speed, made of the benchmark's result: what stands between two comments is never typed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_table import Row

README = Path("README.md")
BEGIN = "<!-- scripts/bench --readme writes what follows -->"
END = "<!-- up to here -->"


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
