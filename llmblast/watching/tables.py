"""Text in columns that fits a width, without rich: the summary and plain progress must not wait for its import."""

from collections.abc import Callable, Sequence
from unicodedata import category, east_asian_width

from llmblast.watching.counters import EndpointCounters
from llmblast.watching.figures import count, latency, percent, short
from llmblast.watching.sanitize import sanitize_text

MAX_ENDPOINT_ROWS = 10
_GAP = "  "
_NAME_LENGTH = 40
_NARROWEST_NAME = 8
_LONGEST_DISTINCT = 24
"""So much of the names is kept where that tells them apart, before columns are left out."""
_NARROWEST_STATE = 8
_TELLING_STATE = 32
"""So much of a state says more than the rest of a name."""
_DISPENSABLE = ("p50", "share", "ok")
"""Columns in the order in which they go where there is no room for all."""


def cell_width(text: str) -> int:
    """Columns of a terminal that `text` takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns; an ellipsis stands for what does not fit."""
    if cell_width(text) <= width:
        return text
    kept, room = [], width - 1
    for character in text:
        room -= _character_width(character)
        if room < 0:
            break
        kept.append(character)
    return ("".join(kept) + "…") if width > 0 else ""


def align(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Rows with their columns below each other; `right` says which ones are aligned to the right."""
    widths = [max(map(cell_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for text, width, is_right in zip(row, widths, right, strict=True):
            padding = " " * (width - cell_width(text))
            cells.append(padding + text if is_right else text + padding)
        lines.append(_GAP.join(cells).rstrip())
    return lines


def endpoint_table(
    endpoints: Sequence[EndpointCounters], width: int, max_rows: int = MAX_ENDPOINT_ROWS, with_in_flight: bool = False
) -> list[str]:
    """A header, a line for each of the endpoints to show, and a line that counts the others.

    Where it is too wide, large counts are shortened first, then names and states are cut, then columns left out.
    """
    shown = endpoints_to_show(endpoints, max_rows)
    sent_in_all = sum(endpoint.sent for endpoint in endpoints)
    distinct_width = _distinct_width([sanitize_text(endpoint.name, _NAME_LENGTH) for endpoint in shown])
    lines: list[str] = []
    for left_out in (None, *range(len(_DISPENSABLE) + 1)):
        number = count if left_out is None else short
        rows = [_header(with_in_flight)]
        rows += [_row(endpoint, sent_in_all, number, with_in_flight) for endpoint in shown]
        shortest_name = _NARROWEST_NAME if left_out == len(_DISPENSABLE) else distinct_width
        rows = _without(rows, _DISPENSABLE[: left_out or 0])
        lines = _fitted(rows, None if left_out is None else width, shortest_name)
        if max(map(cell_width, lines)) <= width:
            break
    if len(endpoints) > len(shown):
        hidden = sum(bool(e.state) for e in endpoints) - sum(bool(e.state) for e in shown)
        trouble = f", {count(hidden)} of them in trouble" if hidden else ""
        lines.append(f"... and {count(len(endpoints) - len(shown))} more{trouble}")
    return [cut(line, width) for line in lines]


def endpoints_to_show(endpoints: Sequence[EndpointCounters], max_rows: int) -> Sequence[EndpointCounters]:
    """Return all endpoints in their order; where they are too many, those in trouble first, then those with errors."""
    if len(endpoints) <= max_rows:
        return endpoints
    return sorted(endpoints, key=lambda endpoint: (not endpoint.state, not endpoint.errors))[:max_rows]


def _header(with_in_flight: bool) -> list[str]:
    in_flight = ["in flight"] if with_in_flight else []
    return ["endpoint", *in_flight, "sent", "share", "ok", "errors", "429s", "p50", "state"]


def _row(endpoint: EndpointCounters, sent_in_all: int, number: Callable[[int], str], with_in_flight: bool) -> list[str]:
    in_flight = [number(endpoint.in_flight)] if with_in_flight else []
    return [
        sanitize_text(endpoint.name, _NAME_LENGTH),
        *in_flight,
        number(endpoint.sent),
        percent(endpoint.sent, sent_in_all),
        number(endpoint.succeeded),
        number(endpoint.errors),
        number(endpoint.rate_limited),
        latency(endpoint.latency.quantile(0.5)),
        sanitize_text(endpoint.state),
    ]


def _without(rows: list[list[str]], columns: Sequence[str]) -> list[list[str]]:
    kept = [index for index, name in enumerate(rows[0]) if name not in columns]
    return [[row[index] for index in kept] for row in rows]


def _fitted(rows: list[list[str]], width: int | None, shortest_name: int) -> list[str]:
    """Return the rows as lines, first and last column cut to `width`; without the last column if no row has a state."""
    has_state = any(row[-1] for row in rows[1:])
    if not has_state:
        rows = [row[:-1] for row in rows]
    right = [False] + [True] * (len(rows[0]) - 1 - has_state) + [False] * has_state
    if width is None:
        return align(rows, right)
    states = ((-1, _TELLING_STATE), (0, shortest_name), (-1, _NARROWEST_STATE))
    for index, narrowest in states if has_state else ((0, shortest_name),):
        widest = max(cell_width(row[index]) for row in rows)
        excess = max(map(cell_width, align(rows, right))) - width
        for row in rows:
            row[index] = cut(row[index], max(widest - max(excess, 0), narrowest))
    return align(rows, right)


def _distinct_width(names: Sequence[str]) -> int:
    """Return the least width to which the names can be cut without two of them becoming the same."""
    for width in range(_NARROWEST_NAME, _LONGEST_DISTINCT):
        if len({cut(name, width) for name in names}) == len(names):
            return width
    return _NARROWEST_NAME


def _character_width(character: str) -> int:
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
