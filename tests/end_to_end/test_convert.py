"""`llmblast convert` as a real process: pipes, options and messages."""

import subprocess
from pathlib import Path

import orjson
import pytest

from tests.conftest import LLMBLAST, RunLlmblast, records, unmeasured, write_prompts


def test_a_run_and_its_records_as_a_table(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """From JSONL to a batch, through a run, to CSV and back."""
    write_prompts(tmp_path / "prompts.jsonl", 5)

    for arguments in (
        ("convert", "prompts.jsonl", "batch.jsonl", "--to", "openai-batch", "-m", "m"),
        ("run", "batch.jsonl", "-u", "mock:", "--ordered", "-q"),
        ("convert", "save.jsonl", "save.csv"),
        ("convert", "save.csv", "again.jsonl"),
    ):
        done = llmblast(*arguments)
        assert done.returncode == 0, done.stderr

    assert (
        (tmp_path / "save.csv").read_text().startswith("key,line,id,input,response,finish_reason,usage.prompt_tokens")
    )
    assert [record["id"] for record in records(tmp_path / "again.jsonl")] == [f"row-{n}" for n in range(5)]
    assert done.stderr == "5 rows written to again.jsonl\n"


def test_in_a_pipe(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Standard input and output; a table is made of a pipe, too."""
    done = llmblast("convert", "-", "-", "--to", "csv", "-q", stdin='{"a":1}\n{"a":"x","b":null}\n')
    back = llmblast("convert", "-", "-", "--from", "csv", "--to", "jsonl", stdin=done.stdout)

    assert (done.stdout, done.stderr) == ("a,b\n1,\nx,null\n", "")
    assert back.stdout == '{"a":1}\n{"a":"x","b":null}\n'
    assert back.stderr == "2 rows written to standard output\n"


def test_parquet_in_a_pipe(tmp_path: Path, environment: dict[str, str]) -> None:
    """In both directions."""
    pytest.importorskip("pyarrow")
    (tmp_path / "a.jsonl").write_text('{"a":1}\n')
    command = " ".join(LLMBLAST)

    done = subprocess.run(
        ["bash", "-c", f"{command} convert a.jsonl - --to parquet | {command} convert - - --from parquet --to jsonl"],
        cwd=tmp_path,
        env=unmeasured(environment),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == b'{"a":1}\n', done.stderr


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path, environment: dict[str, str]) -> None:
    """As `head` does."""
    write_prompts(tmp_path / "prompts.jsonl", 20_000)

    done = subprocess.run(
        ["bash", "-c", f"{' '.join(LLMBLAST)} convert prompts.jsonl - --to raw | head -2; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=unmeasured(environment),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (141, b"")
    assert [orjson.loads(line)["id"] for line in done.stdout.splitlines()] == ["row-0", "row-1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bad.jsonl", "b.csv"], 65, "bad.jsonl:2:2: not JSON"),
        (["prompts.jsonl", "prompts.jsonl", "--to", "raw"], 73, "prompts.jsonl: exists"),
        (["prompts.jsonl", "b.jsonl", "--to", "xml"], 2, "--to xml: is not a form: write one of simple, raw"),
        (["prompts.jsonl", "b.jsonl", "--to", "raw", "--to", "simple"], 2, "one form and one kind of file are enough"),
        (["prompts.jsonl", "b.csv", "--fields", "id,id"], 2, "--fields id: stands there twice"),
        (["prompts.jsonl", "b.csv", "--fields", ","], 2, "--fields: names no field"),
        (["missing.jsonl", "b.csv"], 66, "missing.jsonl: no such file"),
        (["prompts.jsonl"], 2, "name an input and an output: llmblast convert INPUT OUTPUT"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    tmp_path: Path, llmblast: RunLlmblast, arguments: list[str], code: int, message: str
) -> None:
    """With place, cause and fix; nothing is written."""
    write_prompts(tmp_path / "prompts.jsonl", 2)
    (tmp_path / "bad.jsonl").write_text("\n{a\n")

    done = llmblast("convert", *arguments)

    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "prompts.jsonl"]


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Only where it is needed."""
    (tmp_path / "lib" / "pyarrow").mkdir(parents=True)
    (tmp_path / "lib" / "pyarrow" / "__init__.py").write_text("raise ImportError")
    write_prompts(tmp_path / "prompts.jsonl", 2)
    path = str(tmp_path / "lib")

    fine = llmblast("convert", "prompts.jsonl", "b.csv", PYTHONPATH=path)
    done = llmblast("convert", "prompts.jsonl", "b.parquet", PYTHONPATH=path)

    assert fine.returncode == 0, fine.stderr
    assert done.returncode == 2
    assert "pip install 'llmblast[tables]'" in done.stderr


def test_bad_rows_are_records_and_the_exit_code_says_so(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """As in a run; several inputs are told apart."""
    (tmp_path / "a.jsonl").write_text('{"input":"a"}\n{a\n')
    (tmp_path / "b.csv").write_text("input\nb\n")

    done = llmblast("convert", "[ab].*", "c.parquet", "--errors", "bad.jsonl")
    back = llmblast("convert", "c.parquet", "-", "-q")

    assert (done.returncode, done.stderr) == (3, "2 rows written to c.parquet\n1 bad row is in bad.jsonl\n")
    [error] = records(tmp_path / "bad.jsonl")
    assert (error["file"], error["line"], error["error"][:18]) == ("a.jsonl", 2, "a.jsonl:2:2: not J")
    assert back.stdout == '{"input":"a"}\n{"input":"b"}\n'
