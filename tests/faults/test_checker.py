"""The checker finds each kind of damage: a sound run is made by hand, and then one thing in it is broken."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults import checker
from tests.faults.checker import check, key_of, read_ledger

TWICE = 2
"""The index of the line that stands twice in the input."""


def line(number: int) -> bytes:
    return b'{"messages":[{"role":"user","content":"Question %d?"}]}' % number


def received(number: int, key: str, at_s: float = 1.0) -> dict[str, Any]:
    return {"event": "received", "number": number, "at": at_s, "path": "/v1", "key": key, "fault": None}


def answered(number: int, text: str | None, complete: bool = True, at_s: float = 1.5) -> dict[str, Any]:
    key = None if text is None else key_of(text.encode())
    return {"event": "answered", "number": number, "at": at_s, "status": 200, "complete": complete, "text": key}


@dataclass
class Run:
    """Six lines: 0 to 3 were answered, 2 stands twice, 4 failed after a reply that broke off."""

    folder: Path

    def __post_init__(self) -> None:
        self.keys = [key_of(line(number)) for number in range(5)]
        self.save = [{"key": self.keys[n], "response": f"Answer {n}"} for n in (0, 1, 2, 2, 3)]
        self.errors = [{"key": self.keys[4], "error": "broken"}]
        self.ledger: list[dict[str, Any]] = []
        for number, index in enumerate((0, 1, 2, 2, 3), 1):
            self.ledger += [received(number, self.keys[index]), answered(number, f"Answer {index}")]
        self.ledger += [received(6, self.keys[4]), answered(6, "Answer 4", complete=False)]

    def check(self, **allowed: Any) -> list[str]:
        lines = [line(index) for index in (0, 1, 2, 2, 3, 4)]
        (self.folder / "prompts.jsonl").write_bytes(b"\xef\xbb\xbf" + b" \r\n\n".join(lines))
        for name in ("save", "errors", "ledger"):
            written = [entry if isinstance(entry, str) else json.dumps(entry) for entry in getattr(self, name)]
            (self.folder / f"{name}.jsonl").write_text("".join(f"{entry}\n" for entry in written))
        return check(*(self.folder / f"{name}.jsonl" for name in ("prompts", "save", "errors", "ledger")), **allowed)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_sound_run_is_sound(run: Run) -> None:
    """Blank lines, white space and a BOM are no damage."""
    assert run.check() == []


def test_a_missing_line_is_found(run: Run) -> None:
    """Unless the run was not finished."""
    del run.save[0]

    assert run.check() == [f"{run.keys[0]}: missing: 0 of 1 records"]
    assert run.check(is_finished=False) == []


def test_one_of_two_equal_lines_is_missed(run: Run) -> None:
    """Lines are counted, not only looked for."""
    del run.save[TWICE]

    assert run.check() == [f"{run.keys[2]}: missing: 1 of 2 records"]


def test_a_line_that_has_two_records_is_found(run: Run) -> None:
    """In one file."""
    run.errors.append(run.errors[0])

    assert run.check() == [f"{run.keys[4]}: 2 records of 1 lines"]


def test_a_second_record_of_one_answer_is_found_twice(run: Run) -> None:
    """It is one record too many, and an answer that nobody gave."""
    run.save.append(run.save[0])

    assert run.check() == [
        f"{run.keys[0]}: 2 records of 1 lines",
        f"{run.keys[0]}: an answer that the ledger does not know: {key_of(b'Answer 0')}",
    ]


def test_a_line_in_both_files_is_found(run: Run) -> None:
    """Its error is one that was answered."""
    run.errors.append({"key": run.keys[0], "error": "broken"})

    assert run.check() == [f"{run.keys[0]}: in both files"]


@pytest.mark.parametrize("damage", ['{"key":"12', "", "\x00\x00", '["key"]', '{"response":"no key"}', "17"])
def test_what_is_no_record_is_found(run: Run, damage: str) -> None:
    """With its place."""
    run.save.insert(1, damage)  # type: ignore[arg-type]  # no record, that is the point

    assert run.check() == [f"save.jsonl:2: no record: {damage.encode()!r}"]


def test_a_torn_last_line_is_found(run: Run) -> None:
    """Even where it would be a record."""
    run.check()
    whole = (run.folder / "save.jsonl").read_bytes()
    (run.folder / "save.jsonl").write_bytes(whole[:-1])

    paths = (run.folder / f"{name}.jsonl" for name in ("prompts", "save", "errors", "ledger"))

    assert check(*paths) == ["save.jsonl: the last line has no end", f"{run.keys[3]}: missing: 0 of 1 records"]


def test_a_record_of_no_line_is_found(run: Run) -> None:
    """In either file."""
    run.errors.append({"key": "0" * 16, "error": "whose?"})

    assert run.check() == [f"{'0' * 16}: a record that belongs to no line"]


def test_an_answer_of_another_line_is_found(run: Run) -> None:
    """As if replies had been mixed up."""
    run.save[0]["response"] = "Answer 1"

    assert run.check() == [f"{run.keys[0]}: an answer that the ledger does not know: {key_of(b'Answer 1')}"]


def test_an_answer_that_was_never_complete_is_found(run: Run) -> None:
    """The text may be right and yet be half of what was to come."""
    run.ledger[1]["complete"] = False

    assert run.check() == [f"{run.keys[0]}: an answer that the ledger does not know: {key_of(b'Answer 0')}"]


def test_an_answer_without_text_is_found(run: Run) -> None:
    """A provider's text is never null."""
    run.save[0]["response"] = None  # type: ignore[assignment]  # that is the damage

    assert run.check() == [f"{run.keys[0]}: an answer that the ledger does not know: no text: None"]


def test_a_request_of_no_line_is_found(run: Run) -> None:
    """A body that was garbled on its way, say."""
    run.ledger.append(received(7, "f" * 16))

    assert run.check() == [f"{'f' * 16}: a request that belongs to no line"]


def test_a_line_that_is_sent_too_often_is_found(run: Run) -> None:
    """What is too often, the caller says."""
    run.ledger += [received(7, run.keys[4]), received(8, run.keys[4])]

    assert run.check(most_sends=2) == [f"{run.keys[4]}: sent 3 times"]
    assert run.check(most_sends=3) == []
    assert run.check(most_sends=2, lost=1) == []


def test_a_line_that_is_sent_after_its_answer_is_found(run: Run) -> None:
    """It is paid for twice, however many tries it has."""
    run.ledger.append(received(7, run.keys[0]))

    assert run.check(most_sends=5) == [f"{run.keys[0]}: sent again after a complete answer"]
    assert run.check(most_sends=5, lost=1) == []


def test_a_third_send_of_two_equal_lines_is_found(run: Run) -> None:
    """Two answers are theirs, the third send is one too many."""
    run.ledger.append(received(7, run.keys[2]))

    assert run.check(most_sends=5) == [f"{run.keys[2]}: sent again after a complete answer"]


def test_one_of_two_equal_lines_may_be_tried_again(run: Run) -> None:
    """Though the other one has its answer already."""
    run.ledger[7]["complete"] = False
    run.ledger += [received(7, run.keys[2]), answered(7, "Answer 2")]

    assert run.check(most_sends=2) == []


def test_a_failure_that_was_answered_is_found(run: Run) -> None:
    """An answer was received, paid for and thrown away."""
    run.ledger[-1]["complete"] = True

    assert run.check() == [f"{run.keys[4]}: failed although it was answered"]


def test_much_damage_is_told_shortly(run: Run) -> None:
    """The rest is counted."""
    run.errors += [{"key": f"{number:016x}", "error": "whose?"} for number in range(30)]

    assert run.check()[-1] == "and 10 more"


def test_a_ledger_goes_on_from_server_to_server(run: Run) -> None:
    """Numbers begin anew in the same file; what one server left open is nobody's answer."""
    run.ledger += [received(1, run.keys[4], at_s=5.0), answered(1, None, at_s=9.0), received(2, run.keys[4])]
    run.check()

    ledger = read_ledger(run.folder / "ledger.jsonl")

    assert (ledger.received, ledger.longest_s) == (8, 4.0)
    assert ledger.sends[run.keys[4]] == 3


def test_the_checker_shares_no_code_with_what_it_checks() -> None:
    """The standard library is all that it has."""
    tree = ast.parse(Path(checker.__file__).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}

    assert {name.partition(".")[0] for name in imported} <= {
        "collections",
        "dataclasses",
        "hashlib",
        "itertools",
        "json",
        "pathlib",
        "typing",
    }
