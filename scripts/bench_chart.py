"""The chart of the benchmark: throughput as horizontal bars beside wrk, an SVG without any library.

A bar is the share of what wrk got in the same minutes, since rates of different minutes do not compare; where there is
no wrk, it is the share of the highest rate.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bench_speed import LIMIT, RATE, SHARE
from bench_table import Row

_WIDTH = 940
_LABEL_WIDTH = 360
_VALUE_WIDTH = 170
_BAR_WIDTH = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
_ROW_HEIGHT = 30
_BAR_HEIGHT = 18
_TOP = 40
_STYLE = """text{font-family:system-ui,sans-serif;font-size:14px;fill:#1f2328}.title{font-weight:600}
.quiet{fill:#59636e}.bar{fill:#0969da}.limit{fill:#8c959f}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.quiet{fill:#9198a1}.bar{fill:#4493f8}.limit{fill:#656c76}}"""


class _Bar(NamedTuple):
    label: str
    share: float
    value: str
    style: str


def chart(rows: Sequence[Row]) -> str:
    """The rows that have a rate; an SVG."""
    bars = _bars(rows)
    height = _TOP + _ROW_HEIGHT * len(bars) + 10
    title = "Requests a second, file to file"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        f'<text x="0" y="20" class="title">{title}</text>',
    ]
    for index, bar in enumerate(bars):
        top = _TOP + index * _ROW_HEIGHT
        baseline = top + _BAR_HEIGHT - 4
        width = max(1.0, bar.share * _BAR_WIDTH)
        parts += [
            f'<text x="{_LABEL_WIDTH - 10}" y="{baseline}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{bar.style}" x="{_LABEL_WIDTH}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}"/>',
            f'<text class="quiet" x="{_LABEL_WIDTH + width + 8:.1f}" y="{baseline}">{escape(bar.value)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _bars(rows: Sequence[Row]) -> Sequence[_Bar]:
    tables = [(row, {figure.name: figure for figure in row.figures}) for row in rows]
    tables = [(row, figures) for row, figures in tables if RATE in figures]
    limits = [figures[LIMIT].value for _, figures in tables if LIMIT in figures]
    highest = max((figures[RATE].value for _, figures in tables), default=0.0)
    limit = sum(limits) / len(limits) if limits else highest
    bars = [_Bar("wrk, which only counts the replies", 1.0, f"{limit:,.0f}/s on average", "limit")] if limits else []
    for row, figures in tables:
        rate = figures[RATE].value
        share = figures[SHARE].value if SHARE in figures else rate / limit
        value = f"{rate:,.0f}/s, {share:.0%}" if limits else f"{rate:,.0f}/s"
        bars.append(_Bar(row.what.replace("`", ""), min(share, 1.0), value, "bar"))
    return bars
