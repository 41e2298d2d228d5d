"""Files whose rows are no JSON lines: what each row becomes, in blocks of any size, and what is wrong with a file."""

import datetime
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from llmblast.errors import InputDamagedError, UsageError
from llmblast.reading import open_source
from llmblast.reading.bad_row import BadRow
from llmblast.reading.csv_rows import CsvRows
from llmblast.reading.file_formats import detect
from llmblast.reading.json_items import JsonItems
from llmblast.reading.row_reader import RowReader
from llmblast.reading.splitters import Splitter
from llmblast.reading.text_lines import TextLines

Rows = list[tuple[int, Any]]


def split(splitter: Splitter, data: bytes, size: int = 7) -> list[tuple[int, bytes]]:
    lines = [line for at in range(0, len(data), size) for line in splitter.feed(data[at : at + size])]
    return lines + splitter.finish()


def values(lines: Sequence[tuple[int, bytes]]) -> Rows:
    return [(number, text if type(text) is BadRow else orjson.loads(text)) for number, text in lines]


async def read(path: Path, file_format: str | None = None) -> Rows:
    source = await open_source(str(path))
    try:
        reader = RowReader(source, file_format)
        return values([line async for lines in reader.lines() for line in lines])
    finally:
        await source.close()


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_csv_rows_have_the_lines_at_which_they_begin(size: int) -> None:
    """Quoted line ends and quotes, a BOM, CRLF, empty lines, a quote inside of a plain value, no last line end."""
    data = b'\xef\xbb\xbfid,prompt\r\n1,"a, ""b""\r\nc"\r\n\r\n2,5" disk\r\n3,last'

    assert values(split(CsvRows("a.csv"), data, size)) == [
        (2, {"id": "1", "prompt": 'a, "b"\r\nc'}),
        (5, {"id": "2", "prompt": '5" disk'}),
        (6, {"id": "3", "prompt": "last"}),
    ]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_the_header_tells_the_delimiter(delimiter: str) -> None:
    data = f'id{delimiter}"a,;b"\n1{delimiter}"x,y;z"\n'

    [(_, row)] = values(split(CsvRows("a.csv"), data.encode()))

    assert list(row.values()) == ["1", "x,y;z"]


def test_a_first_line_of_excel_names_the_delimiter() -> None:
    assert values(split(CsvRows("a.csv"), b"sep=;\r\na;b\r\n1,0;2\r\n")) == [(3, {"a": "1,0", "b": "2"})]


def test_lines_may_end_with_cr_alone() -> None:
    assert values(split(CsvRows("a.csv"), b"a,b\r1,2\r3,4")) == [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(("row", "count"), [(b"1", 1), (b"1,2,3", 3)])
def test_a_ragged_row_is_bad_and_others_are_not(row: bytes, count: int) -> None:
    lines = split(CsvRows("a.csv"), b"a,b\n" + row + b"\n5,6\n")

    [(number, bad), good] = lines
    assert (number, bytes(bad)) == (2, row)
    assert isinstance(bad, BadRow)
    assert f"the row has {count} values, the header names 2" in bad.reason
    assert values([good]) == [(3, {"a": "5", "b": "6"})]


def test_a_row_that_is_not_utf8_is_bad() -> None:
    [(_, bad), _] = split(CsvRows("a.csv"), b"a,b\n1,caf\xe9\n5,6\n")

    assert isinstance(bad, BadRow)
    assert bytes(bad) == b"1,caf\xe9"
    assert "invalid UTF-8" in bad.reason


def test_equal_names_of_columns_are_an_error() -> None:
    with pytest.raises(UsageError, match=r'a\.csv:1: two columns are named "b"'):
        split(CsvRows("a.csv"), b"a,b,b\n1,2,3\n")


def test_messages_are_json() -> None:
    lines = split(CsvRows("a.csv"), b'id,messages\n1,"[{""role"": ""user""}]"\n2,hello\n')

    assert values(lines[:1]) == [(2, {"id": "1", "messages": [{"role": "user"}]})]
    assert isinstance(lines[1][1], BadRow)


def test_an_empty_cell_of_an_optional_field_is_no_field() -> None:
    """The row has its line number as id, and the system message and model of the settings."""
    data = b"id,prompt,model,system,endpoint,own\n,a,,,,\n7,b,m,s,e,x\n"
    assert values(split(CsvRows("a.csv"), data)) == [
        (2, {"prompt": "a", "own": ""}),
        (3, {"id": "7", "prompt": "b", "model": "m", "system": "s", "endpoint": "e", "own": "x"}),
    ]


def test_columns_of_objects_and_numbers_are_json() -> None:
    """What is none stays a text, and the format of the line tells what it should be."""
    data = b'prompt,params,headers,priority,messages\na,"{""n"": 1}","{""x-a"": ""b""}",-1,\nb,text,,,\n'
    assert values(split(CsvRows("a.csv"), data)) == [
        (2, {"prompt": "a", "params": {"n": 1}, "headers": {"x-a": "b"}, "priority": -1}),
        (3, {"prompt": "b", "params": "text"}),
    ]


def test_a_quote_that_is_not_closed_is_damage_with_its_place() -> None:
    with pytest.raises(InputDamagedError, match=r"a.csv:3: .* quote that is not closed"):
        split(CsvRows("a.csv"), b'a,b\n1,2\n3,"4\n5,6\n')


def test_a_huge_row_is_damage_before_it_fills_the_memory() -> None:
    rows = CsvRows("a.csv")
    rows.feed(b'a,b\n1,"')
    for _ in range(1023):
        rows.feed(b"x" * 65536)
    with pytest.raises(InputDamagedError, match=":2: a row of more than 64 MiB"):
        rows.feed(b"x" * 65536)


@given(st.lists(st.lists(st.text(alphabet='a",;\n\r\t é'), min_size=2, max_size=2), max_size=8), st.integers(1, 40))
def test_csv_keeps_every_value(rows: list[list[str]], size: int) -> None:
    """What a writer quotes comes back, wherever blocks end."""
    quoted = ["a,b", *(",".join('"' + value.replace('"', '""') + '"' for value in row) for row in rows)]

    found = values(split(CsvRows("a.csv"), "\n".join(quoted).encode(), size))

    assert [list(row.values()) for _, row in found] == rows


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=4),
            st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.lists(st.integers(-(2**53), 2**53)),
        )
    ),
    st.sampled_from([None, 2]),
    st.integers(1, 40),
)
def test_json_arrays_and_spread_objects_keep_every_value(
    items: list[dict[str, Any]], indent: int | None, size: int
) -> None:
    array = json.dumps(items, indent=indent).encode()
    spread = "\n".join(json.dumps(item, indent=2) for item in items).encode()
    expected = list(enumerate(items, 1))

    assert values(split(JsonItems("a.json"), array, size)) == expected
    assert values(split(JsonItems("a.json"), spread, size)) == expected


def test_json_items_keep_their_bytes() -> None:
    """Numbers with all digits, escapes, double keys; line ends only are removed."""
    data = b'[{"a": 1.00000000000000000001, "b":"\\u00e9 x", "a": 2},\n{\n "c": "d  e" }]'

    assert split(JsonItems("a.json"), data) == [
        (1, b'{"a": 1.00000000000000000001, "b":"\\u00e9 x", "a": 2}'),
        (2, b'{"c":"d  e"}'),
    ]


def test_items_that_are_no_objects_are_lines_of_their_own() -> None:
    assert values(split(JsonItems("a.json"), b'[1, "a,]b", [2, [3]], null, {}]')) == [
        (1, 1),
        (2, "a,]b"),
        (3, [2, [3]]),
        (4, None),
        (5, {}),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1},\n{"b": 2', ":2: item 2 begins here and is not complete"),
        (b'[{"a": 1},\n{"b": "2}]', ":2: item 2 begins here and is not complete"),
        (b'[{"a": 1}', r"the array ends without '\]' after item 1"),
    ],
)
def test_a_json_file_that_ends_too_early_is_damaged(data: bytes, message: str) -> None:
    items = JsonItems("a.json")
    assert values(items.feed(data)) == [(1, {"a": 1})]
    with pytest.raises(InputDamagedError, match=message):
        items.finish()


def test_each_line_of_a_text_is_a_prompt() -> None:
    lines = split(TextLines("a.txt"), b"one\r\n\n t\xc3\xa9 \n\xff")

    assert values(lines[:2]) == [(1, {"input": "one"}), (3, {"input": "té"})]
    assert isinstance(lines[2][1], BadRow)


@pytest.mark.parametrize(
    ("name", "start", "found"),
    [
        ("a.csv", b"a,b", "csv"),
        ("a.CSV.gz", b"a,b", "csv"),
        ("a.tsv", b"a", "tsv"),
        ("a.parquet", b"nothing", "parquet"),
        ("-", b"PAR1", "parquet"),
        ("-", b"ARROW1", "arrow"),
        ("a.jsonl", b'[{"a"', "json"),
        ("a.jsonl", b"\xef\xbb\xbf\n[\n 1", "json"),
        ("a.jsonl", b'["a"]\n', "jsonl"),
        ("a.jsonl", b'{\n "a"', "json"),
        ("a.jsonl", b'{"a": 1}\n', "jsonl"),
        ("a.json", b'{"a": 1}\n{', "jsonl"),
        ("a.json", b'{"a": 1,\n"b"', "json"),
        ("a.jsonl", b"P", None),
        ("a.jsonl", b" {", None),
        ("a.jsonl", b"", None),
        ("a.txt", b"hello", "jsonl"),
    ],
)
def test_the_format_is_told_by_name_and_first_bytes(name: str, start: bytes, found: str | None) -> None:
    assert detect(name, start, is_whole=False) == found


TABLE = {
    "prompt": pa.array(["a", "b"]),
    "count": pa.array([1, None], pa.int64()),
    "share": pa.array([0.5, 2.0]),
    "good": pa.array([True, False]),
    "tags": pa.array([["x"], []], pa.list_(pa.string())),
    "at": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5), None], pa.timestamp("us")),
    "exact": pa.array([1767323045000000001, 0], pa.timestamp("ns")),
    "day": pa.array([datetime.date(2026, 1, 2), None]),
    "price": pa.array([Decimal("12345678901234567890.10"), None], pa.decimal128(24, 2)),
    "raw": pa.array([b"\xff", b""]),
    "place": pa.array([{"x": 1}, None]),
    "kind": pa.array(["p", "q"]).dictionary_encode(),
}
FIRST = {
    "prompt": "a",
    "count": 1,
    "share": 0.5,
    "good": True,
    "tags": ["x"],
    "at": "2026-01-02T03:04:05",
    "exact": "2026-01-02T03:04:05.000000001",
    "day": "2026-01-02",
    "price": 12345678901234567890.10,
    "raw": "/w==",
    "place": {"x": 1},
    "kind": "p",
}


def write_table(path: Path, name: str) -> None:
    table = pa.table(TABLE)
    if name.endswith(".parquet"):
        parquet.write_table(table, path / name, row_group_size=1)
        return
    make = pa.ipc.new_stream if name.endswith(".arrows") else pa.ipc.new_file
    with make(str(path / name), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather", "a.arrows"])
async def test_tables_keep_their_types(tmp_path: Path, name: str) -> None:
    write_table(tmp_path, name)

    [first, second] = await read(tmp_path / name)

    assert first == (1, FIRST)
    assert (second[0], second[1]["count"], second[1]["tags"], second[1]["place"]) == (2, None, [], None)


async def test_a_table_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    write_table(tmp_path, "a.parquet")
    (tmp_path / "b").write_bytes((tmp_path / "a.parquet").read_bytes())

    assert len(await read(tmp_path / "b")) == 2


@pytest.mark.parametrize("content", [b"", b"no table at all", b"PAR1" + b"x" * 100, b"ARROW1"])
async def test_a_file_that_is_no_table_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)

    with pytest.raises(InputDamagedError, match=r"a\.parquet: is (empty|not a readable)"):
        await read(tmp_path / "a.parquet")


async def test_equal_names_in_a_table_are_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    parquet.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(UsageError, match='two columns are named "a"'):
        await read(tmp_path / "a.parquet")


async def test_an_encrypted_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PARE" + bytes(100) + b"PARE")

    with pytest.raises(InputDamagedError, match="is an encrypted Parquet file: write it again without"):
        await read(tmp_path / "a")


async def test_a_table_cannot_be_followed(tmp_path: Path) -> None:
    """Its end is its index: a run would wait for ever."""
    write_table(tmp_path, "a.parquet")
    source = await open_source(str(tmp_path / "a.parquet"), follow=True)

    with pytest.raises(UsageError, match="leave --follow out"):
        [lines async for lines in RowReader(source, None).lines()]

    await source.close()


async def test_a_record_batch_of_any_size_comes_in_parts(tmp_path: Path) -> None:
    """So that memory holds little of it."""
    table = pa.table({"prompt": ["x" * 1000] * 5000})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    source = await open_source(str(tmp_path / "a.arrow"))

    sizes = [len(lines) async for lines in RowReader(source, None).lines()]

    assert (sum(sizes), max(sizes) < 1000) == (5000, True)
    await source.close()
