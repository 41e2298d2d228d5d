"""What earlier runs have finished."""

import tracemalloc
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmblast.errors import OutputBlockedError
from llmblast.reading import CompletedKeys, completed_keys, key_of

KEYS = [key_of(b"%d" % number) for number in range(6)]
OTHER_LINES = [
    "",
    f' {{"key":"{KEYS[0]}","line":1}}',
    f'{{"key":"{KEYS[0]}0","line":1}}',
    f'{{"key":"{KEYS[0][:15]}"}}',
    f'{{"key":"{KEYS[0][:15]}_","line":1}}',
    f'{{"key":"0x{KEYS[0][:14]}","line":1}}',
    f'{{"id":"x","key":"{KEYS[0]}"}}',
    f'{{"key":"\\n{{\\"key\\":\\"{KEYS[0]}\\""}}',
    '{"key":"',
]

keys = st.sampled_from(KEYS) | st.integers(0, 2**64 - 1).map(lambda value: f"{value:016x}")
records = keys.map(lambda key: f'{{"key":"{key}","line":1,"response":"x"}}')


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records | st.sampled_from(OTHER_LINES)), st.lists(keys), st.integers(1, 80))
def test_it_is_the_multiset_of_the_keys_at_line_starts(
    tmp_path: Path, lines: list[str], wanted: list[str], block_bytes: int
) -> None:
    """Whatever else stands in the file and wherever blocks end."""
    expected = Counter(line[8:24] for line in lines if line not in OTHER_LINES)
    with patch.object(completed_keys, "_BLOCK_BYTES", block_bytes):
        done = CompletedKeys.scan([write(tmp_path / "save.jsonl", lines)])
    assert len(done) == expected.total()

    for key in [*wanted, *expected.elements(), *wanted]:
        assert done.consume(key) == (expected[key] > 0)
        expected[key] -= expected[key] > 0

    assert len(done) == 0


@pytest.mark.parametrize("count", [1, 2, 254, 255, 256, 700])
def test_a_key_is_taken_as_often_as_it_was_found(tmp_path: Path, count: int) -> None:
    """The same line may stand in a file many times."""
    done = CompletedKeys.scan(
        [write(tmp_path / "save.jsonl", [f'{{"key":"{KEYS[0]}"}}'] * count + [f'{{"key":"{KEYS[1]}"}}'])]
    )

    assert [done.consume(KEYS[0]) for _ in range(count + 2)] == [True] * count + [False] * 2
    assert len(done) == 1


def test_all_files_count_together_and_a_missing_one_holds_none(tmp_path: Path) -> None:
    """save.jsonl and errors.jsonl are one list of work done."""
    save = write(tmp_path / "save.jsonl", [f'{{"key":"{KEYS[0]}"}}'])
    errors = write(tmp_path / "errors.jsonl", [f'{{"key":"{KEYS[1]}"}}'])

    done = CompletedKeys.scan([save, str(tmp_path / "missing.jsonl"), errors])

    assert (len(done), done.consume(KEYS[0]), done.consume(KEYS[1]), done.consume(KEYS[2])) == (2, True, True, False)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(keys), st.lists(keys), st.lists(keys))
def test_two_that_are_asked_in_turn_take_each_record_exactly_once(
    tmp_path: Path, answered_keys: list[str], failed_keys: list[str], other_lines: list[str]
) -> None:
    """Answered lines told from failed ones are the same list of work done, whatever the input's order."""
    answered = CompletedKeys.scan([write(tmp_path / "save.jsonl", [f'{{"key":"{key}"}}' for key in answered_keys])])
    failed = CompletedKeys.scan([write(tmp_path / "errors.jsonl", [f'{{"key":"{key}"}}' for key in failed_keys])])
    lines = [*other_lines, *failed_keys, *answered_keys]

    taken = Counter(key for key in lines if answered.consume(key) or failed.consume(key))

    assert taken == Counter(answered_keys) + Counter(failed_keys)
    assert len(answered) == len(failed) == 0
    assert not any(answered.consume(key) or failed.consume(key) for key in lines)


def test_a_record_of_the_first_is_taken_before_one_of_the_second(tmp_path: Path) -> None:
    """A line that failed once and was answered later counts as answered."""
    record = [f'{{"key":"{KEYS[0]}"}}']
    answered = CompletedKeys.scan([write(tmp_path / "save.jsonl", record)])
    failed = CompletedKeys.scan([write(tmp_path / "errors.jsonl", record)])

    assert answered.consume(KEYS[0]) or failed.consume(KEYS[0])

    assert (len(answered), len(failed)) == (0, 1)


@pytest.mark.parametrize("paths", [[], ["missing.jsonl"]])
def test_an_empty_one_costs_next_to_nothing(tmp_path: Path, paths: list[str]) -> None:
    """A fresh run has two of them."""
    tracemalloc.start()
    try:
        nothing = CompletedKeys.scan([str(tmp_path / path) for path in paths])
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert not nothing.consume(KEYS[0])
    assert kept_bytes < 4096


def test_one_made_of_no_groups_holds_nothing() -> None:
    """For whoever resumes nothing."""
    assert not CompletedKeys([]).consume(KEYS[0])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Going on without it would pay for its lines again."""
    with pytest.raises(OutputBlockedError, match=f"{tmp_path}: cannot be read"):
        CompletedKeys.scan([str(tmp_path)])
