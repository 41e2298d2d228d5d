"""Tables: align text in columns to a width, without rich, whose import the summary should not wait for."""

from collections.abc import Callable, Sequence
from unicodedata import category, east_asian_width

from llmblast.watching.counters import EndpointCounters
from llmblast.watching.formatting import count, latency, percent, short
from llmblast.watching.sanitize import sanitize_text

MAX_ENDPOINT_ROWS = 10
_GAP = "  "
_MAX_NAME_LENGTH = 40
_MIN_NAME_WIDTH = 8
_MAX_DISTINCT_WIDTH = 24
"""Names are cut to this width at least, if they differ then, before columns are left out."""
_MIN_STATE_WIDTH = 8
_PREFERRED_STATE_WIDTH = 32
"""States are cut to this width before names are cut."""
_BY_BATCH = "by batch"
_OPTIONAL_COLUMNS = ("p50", "share", _BY_BATCH, "ok")
"""Columns in the order in which they are left out of a narrow table."""


def cell_width(text: str) -> int:
    """Return how many columns of a terminal `text` takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with an ellipsis if it was cut."""
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
    """Return the rows with aligned columns; `right` says which ones are aligned to the right."""
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
    """Return a header, a line for each of the endpoints to show, and a line that counts the others.

    To fit the width, shorten large counts first, then cut names and states, then leave out columns.
    """
    shown = endpoints_to_show(endpoints, max_rows)
    sent_in_all = sum(endpoint.sent for endpoint in endpoints)
    distinct_width = _distinct_width([sanitize_text(endpoint.name, _MAX_NAME_LENGTH) for endpoint in shown])
    unused = () if any(endpoint.batched for endpoint in shown) else (_BY_BATCH,)
    lines: list[str] = []
    for left_out in (None, *range(len(_OPTIONAL_COLUMNS) + 1)):
        number = count if left_out is None else short
        rows = [_header(with_in_flight)]
        rows += [_row(endpoint, sent_in_all, number, with_in_flight) for endpoint in shown]
        shortest_name = _MIN_NAME_WIDTH if left_out == len(_OPTIONAL_COLUMNS) else distinct_width
        rows = _without(rows, (*unused, *_OPTIONAL_COLUMNS[: left_out or 0]))
        lines = _fitted(rows, None if left_out is None else width, shortest_name)
        if max(map(cell_width, lines)) <= width:
            break
    if len(endpoints) > len(shown):
        hidden = sum(bool(e.state) for e in endpoints) - sum(bool(e.state) for e in shown)
        trouble = f", {count(hidden)} of them in trouble" if hidden else ""
        lines.append(f"... and {count(len(endpoints) - len(shown))} more{trouble}")
    return [cut(line, width) for line in lines]


def endpoints_to_show(endpoints: Sequence[EndpointCounters], max_rows: int) -> Sequence[EndpointCounters]:
    """Return all endpoints in their order; if they are too many, those in trouble first, then those with errors."""
    if len(endpoints) <= max_rows:
        return endpoints
    return sorted(endpoints, key=lambda endpoint: (not endpoint.state, not endpoint.errors))[:max_rows]


def _header(with_in_flight: bool) -> list[str]:
    in_flight = ["in flight"] if with_in_flight else []
    return ["endpoint", *in_flight, "sent", "share", "ok", _BY_BATCH, "errors", "429s", "p50", "state"]


def _row(endpoint: EndpointCounters, sent_in_all: int, number: Callable[[int], str], with_in_flight: bool) -> list[str]:
    in_flight = [number(endpoint.in_flight)] if with_in_flight else []
    return [
        sanitize_text(endpoint.name, _MAX_NAME_LENGTH),
        *in_flight,
        number(endpoint.sent),
        percent(endpoint.sent, sent_in_all),
        number(endpoint.succeeded),
        number(endpoint.batched),
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
    states = ((-1, _PREFERRED_STATE_WIDTH), (0, shortest_name), (-1, _MIN_STATE_WIDTH))
    for index, narrowest in states if has_state else ((0, shortest_name),):
        widest = max(cell_width(row[index]) for row in rows)
        excess = max(map(cell_width, align(rows, right))) - width
        for row in rows:
            row[index] = cut(row[index], max(widest - max(excess, 0), narrowest))
    return align(rows, right)


def _distinct_width(names: Sequence[str]) -> int:
    """Return the least width to which the names can be cut without two of them becoming the same."""
    for width in range(_MIN_NAME_WIDTH, _MAX_DISTINCT_WIDTH):
        if len({cut(name, width) for name in names}) == len(names):
            return width
    return _MIN_NAME_WIDTH


def _character_width(character: str) -> int:
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
