"""Opening an output file finds what is broken anywhere in it, moves that aside and keeps the rest."""

import stat
import tempfile
import tracemalloc
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.errors import OutputBlockedError
from llmblast.writing import OutputFile, recovery
from tests.writing.writing_samples import parsed


def record(number: int, text: str = "x") -> bytes:
    """One record without its newline."""
    return orjson.dumps({"key": f"{number:016x}", "line": number, "response": text})


def opened(path: Path, content: bytes) -> list[str]:
    """Opens a file with that content; returns what was put right."""
    path.write_bytes(content)
    file = OutputFile(str(path))
    file.close()
    return file.repaired


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save.jsonl"


@pytest.mark.parametrize(
    "broken",
    [
        record(2)[:-1],
        record(2)[:20],
        record(2)[5:],
        record(2)[:20] + record(3),
        b"rubbish",
    ],
    ids=["end cut", "most cut", "start cut", "run into the next", "rubbish"],
)
def test_a_broken_line_in_the_middle_is_moved_aside(save: Path, broken: bytes) -> None:
    """Its line of the input has no record then and runs again; what was there can still be looked at."""
    notes = opened(save, record(1) + b"\n" + broken + b"\n" + record(4) + b"\n")

    aside = Path(f"{save}.quarantine")
    assert [line["line"] for line in parsed(save)] == [1, 4]
    assert aside.read_bytes() == broken + b"\n"
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert notes == [
        f"{save}: 1 line was damaged; its fragments were moved to {aside}, and lines without a record are sent again"
    ]


@pytest.mark.parametrize(
    "line",
    [b"", b'{"note":"mine"}', b'{"key":"no hash","line":1}', record(2)[:-1] + b',"metadata":{"key":"value"}}'],
    ids=["blank", "somebody's own", "a key that is no hash", "a record within a record"],
)
def test_whole_lines_that_look_odd_stay(save: Path, line: bytes) -> None:
    """What is JSON was written by somebody on purpose."""
    content = record(1) + b"\n" + line + b"\n" + record(3) + b"\n"

    assert opened(save, content) == []
    assert save.read_bytes() == content


def test_zeros_at_the_end_are_cut_off(save: Path) -> None:
    """A file system may have counted bytes that never came."""
    notes = opened(save, record(1) + b"\n" + bytes(300_000))

    assert save.read_bytes() == record(1) + b"\n"
    assert list(save.parent.iterdir()) == [save]
    assert notes == [f"{save}: its last 300000 bytes were zeros after a power cut and were removed"]


@pytest.mark.parametrize("zeros", [1, 5000, 600_000])
def test_whole_records_between_zeros_are_kept(save: Path, zeros: int) -> None:
    """They were paid for, though the zeros took their newlines."""
    hole = bytes(zeros)
    opened(save, record(1) + hole + record(2)[9:] + b"\n" + record(3) + b"\n" + record(4)[:9] + hole + record(5))

    assert [line["line"] for line in parsed(save)] == [1, 3, 5]
    assert Path(f"{save}.quarantine").read_bytes() == record(2)[9:] + b"\n" + record(4)[:9] + b"\n"


@pytest.mark.parametrize(
    "start",
    [
        b"\0" + record(1)[30:],
        bytes(600_000) + record(1)[30:],
        b'{"ke' + bytes(4092),
        bytes(4096) + record(1)[30:] + b"\n" + bytes(4096),
    ],
    ids=["one zero", "many", "a start and zeros", "two holes"],
)
def test_a_file_that_starts_with_zeros_is_still_ours(save: Path, start: bytes) -> None:
    """The first page may be the one that is missing."""
    opened(save, start + b"\n" + record(2) + b"\n")

    assert [line["line"] for line in parsed(save)] == [2]


@pytest.mark.parametrize("content", [b"\0\0PNG\nxyz\n", b"\0" * 9 + b"id,text\n1,a\n"])
def test_a_file_of_zeros_and_something_else_is_not_ours(save: Path, content: bytes) -> None:
    """It is left alone like any other."""
    with pytest.raises(OutputBlockedError, match="is not an output of llmblast"):
        opened(save, content)

    assert save.read_bytes() == content


pieces = st.one_of(
    st.integers(0, 9).map(record),
    st.integers(0, 9).map(lambda number: record(number, "y" * 60)[:25]),
    st.integers(1, 40).map(bytes),
    st.just(b"\n"),
    st.just(b'"}, '),
)


@given(st.lists(pieces), st.integers(8, 200))
def test_whatever_was_whole_stays_and_nothing_is_invented(parts: list[bytes], block_bytes: int) -> None:
    """Wherever blocks end: every whole line stays, every other byte but zeros is kept aside, a second opening has
    nothing to do.
    """
    content = record(0) + b"\n" + b"".join(parts)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patched:
        patched.setattr(recovery, "_BLOCK_BYTES", block_bytes)
        save = Path(directory) / "save.jsonl"
        opened(save, content)
        mended = save.read_bytes()
        aside = b"".join(path.read_bytes() for path in Path(directory).iterdir() if path != save)

        assert opened(save, mended) == []

    whole = [line for line in content.split(b"\n")[:-1] if line in map(record, range(10))]
    kept = [line for line in mended.splitlines() if line]
    assert all(kept.count(line) >= whole.count(line) for line in whole)
    assert set(kept) <= set(map(record, range(10)))
    assert sorted((mended + aside).replace(b"\n", b"")) == sorted(content.replace(b"\n", b"").replace(b"\0", b""))


def test_a_quarantine_that_cannot_be_written_leaves_the_file_as_it_was(save: Path) -> None:
    """Rather no run than a lost fragment."""
    Path(f"{save}.quarantine").mkdir()
    content = record(1) + b"\nrubbish\n" + record(2) + b"\n"

    with pytest.raises(OutputBlockedError, match=r"cannot be moved to .*\.quarantine: Is a directory"):
        opened(save, content)

    assert save.read_bytes() == content


def test_looking_through_a_large_file_needs_little_memory(save: Path) -> None:
    """It goes by blocks."""
    save.write_bytes(b"".join(record(number, "x" * 1000) + b"\n" for number in range(20_000)))
    tracemalloc.start()

    OutputFile(str(save)).close()

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2_000_000
