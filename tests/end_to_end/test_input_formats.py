"""Runs over files that are no JSON lines: records, bad rows, resuming, a second run over the errors, samples."""

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records

CSV = 'id,prompt,topic\n1,hello,x\n2,"two\nlines",y\n3\n4,last,z\n'
MOCK = ("-u", "mock:", "-o", "save.jsonl")


def write_inputs(folder: Path) -> list[str]:
    """The same eight rows in each format."""
    rows = [{"id": f"r{n}", "prompt": f"text {n}", "topic": "é"} for n in range(8)]
    (folder / "a.csv").write_text("".join(["id,prompt,topic\n", *(f"{','.join(row.values())}\n" for row in rows)]))
    (folder / "a.tsv").write_text("".join(["id\tprompt\ttopic\n", *("\t".join(row.values()) + "\n" for row in rows)]))
    (folder / "a.json").write_text(json.dumps(rows, indent=2))
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, folder / "a.parquet", row_group_size=3)
    with pa.ipc.new_file(str(folder / "a.feather"), table.schema) as writer:
        writer.write_table(table)
    return ["a.csv", "a.tsv", "a.json", "a.parquet", "a.feather"]


def test_each_format_gives_the_same_records_and_resumes(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Also with a limit first, and where all of them come in one run: then a record names its file."""
    names = write_inputs(tmp_path)
    for name in names:
        save = f"{name}.out"
        assert llmblast("run", name, "-u", "mock:", "-o", save, "--limit", "3").returncode == 0
        assert len(records(tmp_path / save)) == 3
        done = llmblast("run", name, "-u", "mock:", "-o", save)
        assert done.returncode == 0, done.stderr
        found = sorted((record["id"], record["input"], record["topic"]) for record in records(tmp_path / save))
        assert found == [(f"r{n}", f"text {n}", "é") for n in range(8)]

    assert llmblast("run", *names, *MOCK).returncode == 0
    assert sorted({record["file"] for record in records(tmp_path / "save.jsonl")}) == sorted(names)
    assert len(records(tmp_path / "save.jsonl")) == 40


def test_a_bad_row_is_one_error_with_its_line(tmp_path: Path, llmblast: RunLlmblast) -> None:
    (tmp_path / "data.csv").write_text(CSV)

    checked = llmblast("check", "data.csv")
    done = llmblast("run", "data.csv", *MOCK)
    again = llmblast("run", "data.csv", *MOCK)

    assert (checked.returncode, done.returncode, again.returncode) == (3, 3, 3)
    assert "data.csv:5: the row has 1 values, the header names 3" in checked.stdout
    assert [(r["line"], r["code"]) for r in records(tmp_path / "errors.jsonl")] == [(5, "bad_line")]
    assert sorted(record["line"] for record in records(tmp_path / "save.jsonl")) == [2, 3, 6]
    assert "none sent" in again.stderr


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("a.csv", b"a,prompt,a\n1,2,3\n", 2, ':1: two columns are named "a"'),
        ("a.parquet", b"nothing", 65, "is not a readable Parquet or Arrow file"),
        ("a.csv", b'prompt\n"open\n', 65, ":2: the row that begins here has a quote that is not closed"),
        ("a.json", b'[{"prompt": "x"', 65, "item 1 begins here and is not complete"),
    ],
)
def test_a_damaged_file_ends_check_and_run(
    tmp_path: Path, llmblast: RunLlmblast, name: str, content: bytes, code: int, message: str
) -> None:
    (tmp_path / name).write_bytes(content)

    for done in (llmblast("check", name), llmblast("run", name, *MOCK)):
        assert done.returncode == code
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_tables_come_from_pipes_and_templates_name_columns(tmp_path: Path, environment: dict[str, str]) -> None:
    """Own columns keep their types."""
    table = pa.table({"question": ["why?"], "count": [3], "share": [0.5], "tags": [["a"]]})
    parquet.write_table(table, tmp_path / "a")
    command = [*LLMBLAST, "run", "-", "--prompt", "Say: {question}", *MOCK]

    done = subprocess.run(
        command, input=(tmp_path / "a").read_bytes(), cwd=tmp_path, env=environment, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    [record] = records(tmp_path / "save.jsonl")
    assert (record["input"], record["count"], record["share"], record["tags"]) == ("Say: why?", 3, 0.5, ["a"])


def test_messages_are_sent_and_other_columns_are_not(tmp_path: Path, llmblast: RunLlmblast) -> None:
    messages = '"[{""role"": ""user"", ""content"": ""hi""}]"'
    (tmp_path / "a.csv").write_text(f"id,messages,topic\n7,{messages},x\n")

    assert llmblast("run", "a.csv", *MOCK).returncode == 0

    [record] = records(tmp_path / "save.jsonl")
    assert record["input"] == {"messages": [{"role": "user", "content": "hi"}]}
    assert (record["id"], record["topic"]) == ("7", "x")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_table_may_name_the_model_of_each_row(
    name: str, tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Such rows are chats, also beside an empty column of messages; without a model they get that of the run."""
    rows = [{"prompt": "one", "model": "m1", "messages": None}, {"prompt": "two", "model": None, "messages": None}]
    (tmp_path / "a.csv").write_text("prompt,model,messages\none,m1,\ntwo,,\n")
    schema = pa.schema({column: pa.string() for column in rows[0]})
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "a.parquet")
    server = start_mock()

    done = llmblast("run", name, "-u", server.url, "-m", "usual")

    assert done.returncode == 0, done.stderr
    assert {arrival.path for arrival in server.ledger} == {"/v1/chat/completions"}
    bodies = [json.loads(arrival.body) for arrival in server.ledger]
    assert sorted((body["messages"][0]["content"], body["model"]) for body in bodies) == [
        ("one", "m1"),
        ("two", "usual"),
    ]


@pytest.mark.parametrize("options", [[], ["--format", "csv"]])
def test_the_model_of_a_row_counts_with_a_template_too(
    options: list[str], tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    (tmp_path / "a.csv").write_text("text,model\none,m1\n")
    server = start_mock()

    assert llmblast("run", "a.csv", "-u", server.url, "--prompt", "Say {text}", *options).returncode == 0

    assert json.loads(server.ledger[0].body)["model"] == "m1"


def test_a_table_for_an_endpoint_of_embeddings_asks_for_embeddings(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    (tmp_path / "a.csv").write_text("input,model,own\none,m1,x\n")
    server = start_mock()

    assert llmblast("run", "a.csv", "-u", f"{server.url}/embeddings").returncode == 0

    assert json.loads(server.ledger[0].body) == {"input": "one", "model": "m1"}


def test_a_text_file_is_sent_line_by_line(tmp_path: Path, llmblast: RunLlmblast) -> None:
    (tmp_path / "a.txt").write_text("one, two\n\nthree\n")

    plain = llmblast("check", "a.txt")
    done = llmblast("run", "a.txt", "--format", "text", *MOCK)

    assert "--format text" in plain.stdout
    assert done.returncode == 0
    found = sorted((record["line"], record["input"]) for record in records(tmp_path / "save.jsonl"))
    assert found == [(1, "one, two"), (3, "three")]


def test_a_sample_takes_the_same_lines_again(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """From any format; another seed takes others; a second run sends nothing."""
    write_inputs(tmp_path)
    chosen = {}
    for name, seed in (("a.csv", "1"), ("a.parquet", "1"), ("a.csv", "2")):
        save = f"{name}.{seed}"
        arguments = ("run", name, "-u", "mock:", "--sample", "3", "--seed", seed, "-o", save)
        assert llmblast(*arguments).returncode == 0
        assert "none sent" in llmblast(*arguments).stderr
        chosen[name, seed] = sorted(record["id"] for record in records(tmp_path / save))

    assert len(chosen["a.csv", "1"]) == 3
    assert chosen["a.csv", "1"] == chosen["a.parquet", "1"] != chosen["a.csv", "2"]
