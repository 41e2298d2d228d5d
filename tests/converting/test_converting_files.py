"""Rows go through every kind of file and come back with the same values and types, where the kind has them."""

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmblast.converting import Conversion, Outcome, convert
from llmblast.converting.columns import MAX_COLUMNS, Column
from llmblast.converting.csv_file import Writer, values_of_cells
from llmblast.converting.rows import load_row
from llmblast.errors import InputDamagedError, InputMissingError, LlmblastError, OutputBlockedError, UsageError
from llmblast.reading.csv_rows import CsvRows
from llmblast.settings import Settings

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TABLES = ["csv", "tsv", "parquet", "arrow"]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": 'ä \n"x", y\t', "n": 1, "share": 0.5, "ok": True, "o": {"a": [1, None]}, "zip": "01234"},
    {"id": "b", "text": "12", "n": -(2**63), "share": 1e300, "ok": False, "o": [], "long": 2**70},
    {"id": "c", "text": "", "share": -0.25, "o": "plain", "nothing": None},
    {"id": "d", "text": "null", "o": 7, "nothing": None},
    {"id": "e", "text": '{"a": 1}', "o": True},
    {"id": "f", "text": '"quoted"'},
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["", "1", "true", '"a"', "[", "{}", " x "])
VALUES = st.recursive(
    SCALARS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5
)


def convert_file(source: Path, target: Path, **options: Any) -> int:
    """Return the number of rows."""
    return convert_all([source], target, **options).rows


def convert_all(sources: Sequence[Path], target: Path, **options: Any) -> Outcome:
    chosen = options.pop("settings", Settings())
    return convert(
        Conversion(inputs=[str(source) for source in sources], output=str(target), settings=chosen, **options)
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("kind", TABLES)
def test_rows_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    """Texts that look like numbers, members that only some rows have, null, long numbers and mixtures."""
    source = write_rows(tmp_path / "a.jsonl", ROWS)

    assert convert_file(source, tmp_path / f"b.{kind}") == len(ROWS)
    convert_file(tmp_path / f"b.{kind}", tmp_path / "c.jsonl")

    assert read_rows(tmp_path / "c.jsonl") == ROWS


def test_rows_come_back_through_all_kinds(tmp_path: Path) -> None:
    """JSONL, Parquet, CSV, Arrow, TSV, JSONL."""
    names = ["a.jsonl", "b.parquet", "c.csv", "d.arrow", "e.tsv", "f.jsonl"]
    write_rows(tmp_path / names[0], ROWS)

    for source, target in pairwise(names):
        convert_file(tmp_path / source, tmp_path / target)

    assert read_rows(tmp_path / "f.jsonl") == ROWS


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_any_value_survives_a_cell(values: list[Any]) -> None:
    """With its type: a text is never taken for a number, nor the other way round."""
    file = io.BytesIO()
    writer = Writer(file, [Column("id"), Column("v")])
    for value in values:
        writer.write({"id": 1, "v": value})
    writer.close()
    reader = CsvRows("a.csv")
    lines = reader.feed(file.getvalue()) + reader.finish()

    found = [values_of_cells(load_row(text))["v"] for _, text in lines]

    assert json.dumps(found) == json.dumps(values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), TEXTS | st.integers(-9, 9), min_size=1), min_size=1))
def test_any_rows_survive_parquet(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Whatever members they have."""
    source = write_rows(tmp_path / "a.jsonl", rows)
    overwriting = Settings(overwrite=True)
    convert_file(source, tmp_path / "b.parquet", settings=overwriting)
    convert_file(tmp_path / "b.parquet", tmp_path / "c.jsonl", settings=overwriting)

    assert read_rows(tmp_path / "c.jsonl") == rows


def test_a_parquet_file_has_types_of_its_own(tmp_path: Path) -> None:
    """Numbers are numbers to other tools; only mixtures, lists and objects are JSON text."""
    parquet = pytest.importorskip("pyarrow.parquet")
    source = write_rows(
        tmp_path / "a.jsonl", [{"i": 1, "f": 1, "t": "x", "b": True, "o": {}}, {"i": 2, "f": 0.5, "m": 1}, {"m": "x"}]
    )

    convert_file(source, tmp_path / "b.parquet")

    schema = parquet.read_schema(tmp_path / "b.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "i": "int64",
        "f": "double",
        "t": "string",
        "b": "bool",
        "o": "string",
        "m": "string",
    }


def test_tables_of_others_are_read(tmp_path: Path) -> None:
    """Lists, structs, times and bytes become JSON; a missing value is null."""
    arrow = pytest.importorskip("pyarrow")
    from datetime import datetime

    table = arrow.table(
        {
            "list": [[1, 2], None],
            "time": [datetime(2026, 1, 2, 3, 4), None],
            "data": [b"\0", b"a"],
            "s": [{"a": 1}, None],
        }
    )
    from pyarrow import parquet

    parquet.write_table(table, tmp_path / "a.parquet")

    convert_file(tmp_path / "a.parquet", tmp_path / "b.jsonl")

    assert read_rows(tmp_path / "b.jsonl") == [
        {"list": [1, 2], "time": "2026-01-02T03:04:00", "data": "AA==", "s": {"a": 1}},
        {"list": None, "time": None, "data": "YQ==", "s": None},
    ]


def test_fields_are_chosen_in_their_order(tmp_path: Path) -> None:
    """By name or by path; what a row does not have is null."""
    source = write_rows(tmp_path / "a.jsonl", [{"id": 1, "usage": {"n": 5}, "x": 0}, {"id": 2, "usage": None}])

    convert_file(source, tmp_path / "b.csv", fields=["usage.n", "id"])
    convert_file(source, tmp_path / "b.jsonl", fields=["usage.n", "id"])

    assert (tmp_path / "b.csv").read_text() == "usage.n,id\n5,1\nnull,2\n"
    assert read_rows(tmp_path / "b.jsonl") == [{"usage.n": 5, "id": 1}, {"usage.n": None, "id": 2}]


@pytest.mark.parametrize("target", ["b.csv", "b.jsonl", "b.parquet"])
def test_a_field_that_no_row_has_is_an_error(tmp_path: Path, target: str) -> None:
    """Most likely it is misspelt; nothing is written."""
    source = write_rows(tmp_path / "a.jsonl", [{"id": 1, "response": "x"}])

    with pytest.raises(UsageError, match="--fields respons: no row has it; there are: id, response"):
        convert_file(source, tmp_path / target, fields=["id", "respons"])

    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'\n{"a"\n', r"a\.jsonl:2:5: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1:1: not a JSON object"),
        ("a.csv", b"a,b\n\n1\n", r"a\.csv:3: the row has 1 values, the header names 2"),
        ("a.csv", b"a,a\n1,2\n", r'a\.csv:1: two columns are named "a"'),
        ("a.csv", b"a,b\n1,\xff\n", r"a\.csv:2: invalid UTF-8"),
        ("a.csv", b'a,b\n1,2\n"x\n', r"a\.csv:3: .* quote that is not closed"),
        ("a.json", b'[{"a": 1}', r"a\.json:1: the array ends without ']'"),
        ("a.parquet", b"no", r"a\.parquet: is not a readable Parquet"),
        ("a.arrow", b"no", r"a\.arrow: is not a readable Parquet or Arrow file"),
    ],
)
def test_what_has_no_good_row_is_an_error_and_nothing_is_written(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """With its file and its line, or its row."""
    (tmp_path / name).write_bytes(content)

    for target in ("b.tsv", "b.jsonl"):
        with pytest.raises((InputDamagedError, UsageError), match=message):
            convert_file(tmp_path / name, tmp_path / target, fields=["a"])

    assert os.listdir(tmp_path) == [name]


def test_two_columns_of_a_parquet_file_with_one_name_are_an_error(tmp_path: Path) -> None:
    """One of them would get lost."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], ["a", "a"]), tmp_path / "a.parquet"
    )

    with pytest.raises(UsageError, match='two columns are named "a"'):
        convert_file(tmp_path / "a.parquet", tmp_path / "b.jsonl")


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    """Unless it may be overwritten; then it is replaced in one step, also by itself."""
    source = write_rows(tmp_path / "a.jsonl", [{"a": 1}])
    (tmp_path / "b.csv").write_text("mine")

    with pytest.raises(
        OutputBlockedError, match=r"b\.csv: exists: choose another file, or replace it with --overwrite"
    ):
        convert_file(source, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "mine"
    convert_file(source, tmp_path / "b.csv", settings=Settings(overwrite=True))
    convert_file(source, source, fields=["a"], settings=Settings(overwrite=True))

    assert (tmp_path / "b.csv").read_text() == "a\n1\n"
    assert read_rows(source) == [{"a": 1}]
    assert stat.S_IMODE((tmp_path / "b.csv").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("source", "target", "options", "error", "message"),
    [
        ("missing.jsonl", "b.csv", {}, InputMissingError, "missing.jsonl: no such file"),
        ("a.jsonl", "b.xyz", {}, UsageError, "its ending names no kind of file: add --to jsonl"),
        ("a.jsonl", "b.jsonl", {}, UsageError, "both files are JSONL: name the form"),
        ("a.jsonl", "no/b.csv", {}, OutputBlockedError, "its directory does not exist"),
        ("a.jsonl", ".", {"to_kind": "csv"}, OutputBlockedError, "is a directory"),
    ],
)
def test_what_cannot_be_converted_is_said(
    tmp_path: Path, source: str, target: str, options: dict[str, str], error: type[LlmblastError], message: str
) -> None:
    """In one sentence, before anything is written."""
    write_rows(tmp_path / "a.jsonl", [{"a": 1}])

    with pytest.raises(error, match=message):
        convert_file(tmp_path / source, tmp_path / target, **options)


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    """Such as names that are really ids."""
    source = write_rows(tmp_path / "a.jsonl", [{f"c{n}": n} for n in range(MAX_COLUMNS + 1)])

    with pytest.raises(UsageError, match="more than 1,000 columns: choose some with --fields"):
        convert_file(source, tmp_path / "b.csv")


def test_only_the_first_rows_can_be_taken(tmp_path: Path) -> None:
    """`--limit`, also of a table."""
    source = write_rows(tmp_path / "a.jsonl", [{"a": n} for n in range(9)])

    convert_file(source, tmp_path / "b.csv", settings=Settings(limit=3))
    convert_file(tmp_path / "b.csv", tmp_path / "c.jsonl", settings=Settings(limit=2))

    assert read_rows(tmp_path / "c.jsonl") == [{"a": 0}, {"a": 1}]


def test_an_empty_file_becomes_an_empty_one(tmp_path: Path) -> None:
    """Of any kind."""
    (tmp_path / "a.jsonl").write_bytes(b"")

    for kind in TABLES:
        assert convert_file(tmp_path / "a.jsonl", tmp_path / f"b.{kind}") == 0
        assert convert_file(tmp_path / f"b.{kind}", tmp_path / f"c.{kind}.jsonl") == 0


def test_a_batch_of_rows_is_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory holds no whole table."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("llmblast.converting.arrow_file.MAX_BATCH_ROWS", 10)
    rows = [{"a": n, "t": "x" * n} for n in range(95)]
    source = write_rows(tmp_path / "a.jsonl", rows)

    convert_file(source, tmp_path / "b.parquet")
    convert_file(tmp_path / "b.parquet", tmp_path / "c.jsonl")

    assert parquet.ParquetFile(tmp_path / "b.parquet").num_row_groups == 10
    assert [orjson.loads(line) for line in (tmp_path / "c.jsonl").read_bytes().splitlines()] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.fixed_dictionaries({"a": VALUES, "b": TEXTS}), min_size=1, max_size=5))
def test_any_values_come_back_through_parquet_and_csv(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """JSONL, Parquet, CSV, JSONL: values and types, but for whole numbers in a column of floats."""
    names = ["a.jsonl", "b.parquet", "c.csv", "d.jsonl"]
    write_rows(tmp_path / names[0], rows)

    for source, target in pairwise(names):
        convert_file(tmp_path / source, tmp_path / target, settings=Settings(overwrite=True))

    assert read_rows(tmp_path / "d.jsonl") == rows


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "jsonl.bz2", "jsonl.xz", "json"])
def test_what_a_run_reads_is_converted(tmp_path: Path, kind: str) -> None:
    """Compressed files by their content, and JSON arrays."""
    plain = write_rows(tmp_path / "a.jsonl", ROWS).read_bytes()
    packed: dict[str, Callable[[], bytes]] = {
        "jsonl.gz": lambda: gzip.compress(plain),
        "jsonl.zst": lambda: zstd.compress(plain),
        "jsonl.bz2": lambda: bz2.compress(plain),
        "jsonl.xz": lambda: lzma.compress(plain),
        "json": lambda: json.dumps(ROWS, indent=1).encode(),
    }
    source = tmp_path / f"b.{kind}"
    source.write_bytes(packed[kind]())

    convert_file(source, tmp_path / "c.parquet")
    convert_file(tmp_path / "c.parquet", tmp_path / "d.jsonl")

    assert read_rows(tmp_path / "d.jsonl") == ROWS


def test_texts_and_several_files_are_converted(tmp_path: Path) -> None:
    """In their order; a pattern stands for the files that match it."""
    (tmp_path / "a.jsonl").write_text('{"input": "one"}\n')
    (tmp_path / "b.csv").write_text("input;n\ntwo;2\n")
    (tmp_path / "c.txt").write_text("three\n\nfour\n")

    convert_file(tmp_path / "c.txt", tmp_path / "d.jsonl", from_kind="text")
    outcome = convert_all([tmp_path / "[ab].*", tmp_path / "d.jsonl"], tmp_path / "e.jsonl")

    assert outcome.rows == 4
    assert read_rows(tmp_path / "e.jsonl") == [
        {"input": "one"},
        {"input": "two", "n": 2},
        {"input": "three"},
        {"input": "four"},
    ]


@pytest.mark.parametrize("target", ["b.jsonl", "b.csv", "b.parquet"])
def test_a_bad_row_is_one_record_beside_the_output(tmp_path: Path, target: str) -> None:
    """With its place and its text; all other rows are written."""
    (tmp_path / "a.csv").write_bytes(b'id,n\n"x\ny",1\n3\n4,5\n')

    outcome = convert_all([tmp_path / "a.csv"], tmp_path / target)

    [error] = read_rows(tmp_path / "b.errors.jsonl")
    assert (outcome.rows, outcome.bad_rows, outcome.errors) == (2, 1, str(tmp_path / "b.errors.jsonl"))
    assert (error["line"], error["code"], error["request"]) == (4, "bad_line", 3)
    assert error["error"].startswith(f"{tmp_path / 'a.csv'}:4: the row has 1 values")


def test_a_request_that_has_no_words_in_a_form_is_a_record(tmp_path: Path) -> None:
    """The same as any other bad row."""
    rows: list[dict[str, Any]] = [
        {"input": "x"},
        {"url": "/v1/embeddings", "custom_id": "e", "body": {"model": "m", "input": "y"}},
    ]
    source = write_rows(tmp_path / "a.jsonl", rows)

    outcome = convert_all([source], tmp_path / "b.jsonl", form="anthropic-batch")

    [error] = read_rows(tmp_path / "b.errors.jsonl")
    assert (outcome.rows, error["line"], error["custom_id"]) == (1, 2, "e")
