"""What the next run makes of output files that a crash, a power cut or a person has left in disorder."""

import os
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.reading import Finished, key_of
from llmblast.writing import OutputFile, render
from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.writing.writing_samples import a_failure, a_success


def answer(number: int, text: str = "kept") -> bytes:
    """The record of a line that `write_prompts` has written."""
    key = key_of(orjson.dumps({"id": f"row-{number - 1}", "input": f"Question {number - 1}?"}))
    return orjson.dumps({"key": key, "line": number, "id": f"row-{number - 1}", "response": text}) + b"\n"


def failure(number: int, *, transient: bool = False) -> bytes:
    record = orjson.loads(answer(number))
    del record["response"]
    return orjson.dumps({**record, "error": "HTTP 400", "transient": transient}) + b"\n"


def lines_of(path: Path) -> Counter[int]:
    return Counter(record["line"] for record in records(path))


@pytest.mark.parametrize("outcome", [a_success(3, "wäre\n"), a_failure(3)], ids=["save", "errors"])
def test_a_last_record_that_is_torn_anywhere_costs_only_itself(tmp_path: Path, outcome: object) -> None:
    """At every byte: those before it stay, it counts as done only where all of it is there, the file can be read."""
    path = tmp_path / "some.jsonl"
    before = render(a_success(1)) + render(a_success(2))
    last = render(outcome)  # type: ignore[arg-type] # one of the two kinds
    for size in range(len(last) + 1):
        path.write_bytes(before + last[:size])

        OutputFile(str(path)).close()

        whole = size >= len(last) - 1
        assert path.read_bytes() == before + (last if whole else b"")
        assert len(Finished.scan([str(path)])) == (3 if whole else 2)


def test_the_lines_of_broken_records_run_again(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """In both files, in the middle and at the end; a person is told where the fragments are."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 8)
    save, errors = tmp_path / "save.jsonl", tmp_path / "errors.jsonl"
    save.write_bytes(answer(1) + answer(2)[:-9] + bytes(5000) + answer(3) + answer(4)[:-3])
    errors.write_bytes(failure(5) + failure(6)[:30] + b"\n" + failure(7) + bytes(100))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 3, done.stderr
    assert lines_of(save) == Counter([1, 2, 3, 4, 6, 8])
    assert lines_of(errors) == Counter([5, 7])
    assert server.received == 4
    for told in ("save.jsonl.quarantine", "save.jsonl.torn", "errors.jsonl.quarantine", "100 bytes were zeros"):
        assert told in done.stderr


def test_records_that_belong_to_no_line_stay(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Their lines may come back into the input; they were paid for."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 3)
    (tmp_path / "save.jsonl").write_bytes(answer(2) + answer(99))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 0, done.stderr
    assert lines_of(tmp_path / "save.jsonl") == Counter([1, 2, 3, 99])
    assert server.received == 2


def test_a_line_with_an_answer_and_an_error_is_answered(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """The error is dropped, the line is counted once, nothing is sent for it."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 3)
    (tmp_path / "save.jsonl").write_bytes(answer(1) + answer(2) + answer(3))
    (tmp_path / "errors.jsonl").write_bytes(failure(2))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 0, done.stderr
    assert lines_of(tmp_path / "save.jsonl") == Counter([1, 2, 3])
    assert records(tmp_path / "errors.jsonl") == []
    assert server.received == 0


def test_outputs_of_a_power_cut_keep_their_mode_and_their_lock(tmp_path: Path) -> None:
    """Putting right means a new file in the old one's place."""
    path = tmp_path / "save.jsonl"
    path.write_bytes(answer(1) + b"rubbish\n" + answer(2))
    path.chmod(0o640)

    file = OutputFile(str(path))

    assert path.stat().st_mode & 0o777 == 0o640
    assert os.path.samestat(os.fstat(file._fd), path.stat())
    file.append(answer(3))
    file.close()
    assert lines_of(path) == Counter([1, 2, 3])
