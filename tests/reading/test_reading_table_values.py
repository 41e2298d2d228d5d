"""Values of Parquet and Arrow columns as JSON, and what an empty cell means."""

import datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest

from llmblast.reading.bad_row import BadRow
from llmblast.reading.csv_rows import CsvRows
from llmblast.reading.table_values import RowWriter

NS = 1767323045000000001
TEXT = "2026-01-02T03:04:05.000000001"
NS_TYPE = pa.timestamp("ns")


def line_of(array: Any, name: str = "x") -> bytes:
    [batch] = pa.table({name: array}).to_batches()
    return RowWriter(batch.schema).lines_of(batch)[0]


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array([NS], NS_TYPE), TEXT),
        (pa.array([NS], pa.timestamp("ns", "UTC")), f"{TEXT}Z"),
        (pa.array([NS], NS_TYPE).dictionary_encode(), TEXT),
        (pa.array([[NS, None]], pa.list_(NS_TYPE)), [TEXT, None]),
        (pa.array([{"t": NS, "n": 1}], pa.struct([("t", NS_TYPE), ("n", pa.int8())])), {"t": TEXT, "n": 1}),
        (pa.array([[("k", NS)]], pa.map_(pa.string(), NS_TYPE)), {"k": TEXT}),
        (pa.array([[{"a": 1}, {"a": None}]]), [{"a": 1}, {"a": None}]),
        (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([1001], pa.duration("ns")), "PT0.000001001S"),
        (pa.array([datetime.timedelta(seconds=90)]), "PT90S"),
        (pa.array([datetime.date(2026, 1, 2)]), "2026-01-02"),
        (pa.array([b"\xff"]), "/w=="),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([float("nan")]), None),
    ],
)
def test_each_type_has_a_json_value(array: Any, value: object) -> None:
    """Also nanoseconds at any depth, which Python's types do not have."""
    assert orjson.loads(line_of(array)) == {"x": value}


def test_a_decimal_keeps_its_digits() -> None:
    """As a number."""
    assert line_of(pa.array([Decimal("12345678901234567890.10")])) == b'{"x":12345678901234567890.10}'


@pytest.mark.parametrize(
    "array", [pa.array([b"\xff"]).view(pa.string()), pa.array([[(b"k", 1)]], pa.map_("binary", "int8"))]
)
def test_a_row_that_is_no_json_is_a_bad_row(array: Any) -> None:
    """Alone: the rows around it are read."""
    assert type(line_of(array)) is BadRow


def test_null_means_not_given_in_what_is_sent() -> None:
    """Providers reject null parameters and members; in the user's own fields it stays."""
    messages = [{"role": "user", "content": "x", "name": None}, {"role": "user", "content": "y", "name": "n"}]
    table = pa.table(
        {"messages": [messages], "temperature": pa.nulls(1), "params": [{"a": None, "b": 1}], "topic": pa.nulls(1)}
    )

    [batch] = table.to_batches()

    assert orjson.loads(RowWriter(batch.schema).lines_of(batch)[0]) == {
        "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y", "name": "n"}],
        "params": {"b": 1},
        "topic": None,
    }


def test_empty_cells_of_a_csv_give_no_model_and_no_messages() -> None:
    """A request has one or the other; an empty field of the user stays an empty text."""
    rows = CsvRows("a.csv")

    lines = rows.feed(b"prompt,model,messages,topic\nhi,,,\n") + rows.finish()

    assert [orjson.loads(text) for _, text in lines] == [{"prompt": "hi", "topic": ""}]
