"""What earlier runs have finished."""

from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmblast.errors import OutputBlockedError
from llmblast.reading import Finished, finished, key_of

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
    with patch.object(finished, "_BLOCK_BYTES", block_bytes):
        done = Finished.scan([write(tmp_path / "save.jsonl", lines)])
    assert len(done) == expected.total()

    for key in [*wanted, *expected.elements(), *wanted]:
        assert done.take(key) == (expected[key] > 0)
        expected[key] -= expected[key] > 0

    assert len(done) == 0


@pytest.mark.parametrize("count", [1, 2, 254, 255, 256, 700])
def test_a_key_is_taken_as_often_as_it_was_found(tmp_path: Path, count: int) -> None:
    """The same line may stand in a file many times."""
    done = Finished.scan(
        [write(tmp_path / "save.jsonl", [f'{{"key":"{KEYS[0]}"}}'] * count + [f'{{"key":"{KEYS[1]}"}}'])]
    )

    assert [done.take(KEYS[0]) for _ in range(count + 2)] == [True] * count + [False] * 2
    assert len(done) == 1


def test_all_files_count_together_and_a_missing_one_holds_none(tmp_path: Path) -> None:
    """save.jsonl and errors.jsonl are one list of work done."""
    save = write(tmp_path / "save.jsonl", [f'{{"key":"{KEYS[0]}"}}'])
    errors = write(tmp_path / "errors.jsonl", [f'{{"key":"{KEYS[1]}"}}'])

    done = Finished.scan([save, str(tmp_path / "missing.jsonl"), errors])

    assert (len(done), done.take(KEYS[0]), done.take(KEYS[1]), done.take(KEYS[2])) == (2, True, True, False)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Going on without it would pay for its lines again."""
    with pytest.raises(OutputBlockedError, match=f"{tmp_path}: cannot be read"):
        Finished.scan([str(tmp_path)])
