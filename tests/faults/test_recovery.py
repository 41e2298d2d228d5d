"""What the next run makes of output files that a crash, a power cut or a person has left in disorder."""

import json
import os
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.models import Outcome
from llmblast.reading import CompletedKeys, completed_keys, key_of
from llmblast.writing import OutputFile, recovery, render
from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.writing.writing_samples import a_failure, a_success

BINARY = bytes(byte for byte in range(256) if byte not in b"\r\n")
ESCAPES = 'a line\r\n\x00\x1b[31m "\\u00e9\\" é中\u2028\U0001f600\ud800 {"key":"0000000000000001"}'
LAST = {
    "save.jsonl": a_success(3, "x" * 300),
    "save.jsonl, escapes": a_success(3, ESCAPES, body=orjson.dumps(ESCAPES[:9]), says_more=True),
    "save.jsonl, binary": a_success(3, BINARY.decode("latin-1"), body=BINARY, says_more=True),
    "errors.jsonl": a_failure(3),
    "errors.jsonl, escapes": a_failure(3, json.dumps({"input": ESCAPES}).encode(), body=b'{"error":"\\u00e9\\n"}'),
    "errors.jsonl, binary": a_failure(3, BINARY, body=BINARY),
}


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


def assert_a_torn_end_costs_only_itself(path: Path, before: bytes, last: bytes, size: int) -> None:
    """What is whole stays and counts as done, the rest is kept beside it, and a person is told."""
    path.write_bytes(before + last[:size])

    file = OutputFile(str(path))
    file.close()

    is_whole = size >= len(last) - 1
    kept = before + (last if is_whole else b"")
    torn = Path(f"{path}.torn")
    assert path.read_bytes() == kept
    assert len(CompletedKeys.scan([str(path)])) == kept.count(b"\n")
    if size in (0, len(last)):
        assert (file.repaired, torn.exists()) == ([], False)
    elif is_whole:
        assert (file.repaired, torn.exists()) == (
            [f"{path}: the last record had no newline; it was added"],
            False,
        )
    else:
        assert file.repaired == [f"{path}: the last record was incomplete; its {size} bytes were moved to {torn}"]
        assert torn.read_bytes() == last[:size] + b"\n"
        torn.unlink()


@pytest.mark.parametrize("block_bytes", [64, 256 * 1024])
@pytest.mark.parametrize("before", [b"", render(a_success(1)) + render(a_failure(2))], ids=["alone", "after others"])
@pytest.mark.parametrize("last", LAST.values(), ids=list(LAST))
def test_a_last_record_that_is_torn_anywhere_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: Outcome, before: bytes, block_bytes: int
) -> None:
    """In both files, at every byte, be it within an escape or a character; within one block or over many."""
    monkeypatch.setattr(recovery, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(completed_keys, "_BLOCK_BYTES", block_bytes)
    record = render(last)
    for size in range(len(record) + 1):
        assert_a_torn_end_costs_only_itself(tmp_path / "some.jsonl", before, record, size)


@pytest.mark.parametrize(
    "last", [a_success(3, "é" * 300_000), a_failure(3, b"\xff" * 300_000)], ids=["save.jsonl", "errors.jsonl"]
)
def test_a_long_last_record_that_is_torn_costs_only_itself(tmp_path: Path, last: Outcome) -> None:
    """At its ends, and on both sides of every block that is read from the start or from the end of the file."""
    before, record = render(a_success(1)), render(last)
    ends = (*range(3), *range(len(record) - 2, len(record) + 1))
    from_the_start = range(2**18 - len(before), len(record), 2**18)
    from_the_end = range(2**18, len(record), 2**18)
    blocks = (edge + shift for edge in (*from_the_start, *from_the_end) for shift in (-1, 0, 1))

    for size in (*ends, *blocks):
        assert_a_torn_end_costs_only_itself(tmp_path / "some.jsonl", before, record, size)


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
